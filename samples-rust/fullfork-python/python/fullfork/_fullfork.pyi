# SPDX-License-Identifier: MIT OR Apache-2.0
import os
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, TypeAlias, final

_Text: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

class UnsupportedError(OSError): ...

@final
class Subprocess:
    @property
    def pid(self) -> int | None: ...
    @property
    def returncode(self) -> int | None: ...
    def __enter__(self) -> Subprocess: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> Literal[False]: ...
    def exec(
        self,
        path: _Text,
        argv: Iterable[_Text] | None = None,
        env: Mapping[_Text, _Text] | None = None,
        *,
        search: bool = False,
    ) -> None: ...
    def exit(self, status: int = 0) -> None: ...
    def wait(self) -> int: ...
    def poll(self) -> int | None: ...

def sfork(
    *,
    exit_signal: int = 17,
    share_files: bool = False,
    share_fs: bool = False,
    namespaces: int = 0,
    cgroup: int | None = None,
    clear_signal_handlers: bool = False,
) -> Subprocess: ...
def supported() -> frozenset[str]: ...
def full_fork(
    request: dict[str, Any], source: int | None, /
) -> tuple[int, int, list[tuple[int, int]]] | None: ...
