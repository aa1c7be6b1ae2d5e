// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the Python package `fullfork` has in Rust. The package is in `python/`.

mod full_fork;
mod subprocess;

use fullfork::{Answer, Errno, Error, Flags, Support};
use pyo3::create_exception;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyFrozenSet;

create_exception!(
    fullfork,
    UnsupportedError,
    PyOSError,
    "This kernel, or a filter in front of it, does not know what was asked for.\n\n\
     It is an OSError with the number that the kernel answered; supported() tells what is there."
);

/// What Python calls a flag.
fn name(flag: Flags) -> String {
    let (name, _) = flag.iter_names().next().unwrap_or(("?", flag));
    format!("CLONE_{name}")
}

/// The exception for what the kernel answered to a call with `flags`.
fn exception(error: Error, flags: Flags) -> PyErr {
    let number = error.errno().number();
    if matches!(error.errno(), Errno::EINVAL | Errno::E2BIG | Errno::ENOSYS | Errno::EPERM) {
        let support = Support::probe();
        let probed = support.iter().map(|(flag, _)| flag);
        let lacking = probed.filter(|flag| flags.contains(*flag) && !support.has(*flag));
        let lacking: Vec<_> = lacking.map(name).collect();
        if !lacking.is_empty() {
            let text = format!("this kernel does not support {}", lacking.join(", "));
            return UnsupportedError::new_err((number, text));
        }
    }
    PyOSError::new_err((number, error.to_string()))
}

/// The flags of full fork that this kernel knows, by their names.
///
/// A frozenset of "CLONE_ALL_THREADS", "CLONE_SUBTREE", "CLONE_STOPPED",
/// "CLONE_FROM_PIDFD", "CLONE_KEEP_TIDS", "CLONE_ISOLATE" and "CLONE_SFORK", which
/// is empty, and so false, on an ordinary kernel. The kernel is asked by calls that
/// cannot succeed; no process is made, and no version is looked at.
#[pyfunction]
fn supported(py: Python<'_>) -> PyResult<Bound<'_, PyFrozenSet>> {
    let support = Support::probe();
    let known = support.iter().filter(|(_, answer)| *answer == Answer::Known);
    let names: Vec<_> = known.map(|(flag, _)| name(flag)).collect();
    PyFrozenSet::new(py, names)
}

/// The part of the package fullfork that is written in Rust.
#[pymodule]
fn _fullfork(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("UnsupportedError", module.py().get_type::<UnsupportedError>())?;
    module.add_class::<subprocess::Subprocess>()?;
    module.add_function(wrap_pyfunction!(subprocess::sfork, module)?)?;
    module.add_function(wrap_pyfunction!(full_fork::full_fork, module)?)?;
    module.add_function(wrap_pyfunction!(supported, module)?)
}
