// SPDX-License-Identifier: MIT OR Apache-2.0

//! Programs of a few instructions, so that nothing but the kernel is measured.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;

/// x86-64: `exit(0)`.
pub(crate) const EXIT: &[u8] = &[
    0xb8, 0x3c, 0x00, 0x00, 0x00, // mov eax, exit
    0x31, 0xff, // xor edi, edi
    0x0f, 0x05, // syscall
];

/// An ELF file with this code, at the start of its only segment.
fn elf(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2_u16, 62] {
        file.extend(half.to_le_bytes()); // an executable, x86-64
    }
    file.extend(1_u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        file.extend(word.to_le_bytes()); // entry, program headers, no sections
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for word in [1_u32, 5] {
        file.extend(word.to_le_bytes()); // load, to read and execute
    }
    for word in [0, BASE, BASE, size, size, 4096] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

/// Makes such a program. Return: its path.
pub(crate) fn write(name: &str, code: &[u8]) -> io::Result<CString> {
    let path = format!("/tmp/fullfork-bench-{name}");
    fs::write(&path, elf(code))?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    Ok(CString::new(path)?)
}
