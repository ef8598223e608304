//! The infra image, made of bytes in this binary: nothing is pulled for a pod's first container.
//!
//! One static ELF executable of some 130 bytes that waits for ever. It is the first process of its
//! PID namespace, so the kernel ignores every signal to it that could be handled; only SIGKILL ends
//! it, which is why that is the containers' stop signal.

use super::RuntimeError;

/// Its name. The tag counts up with every change of what is inside.
pub const IMAGE: &str = "coracle/infra:1";

/// Label on the image, so that `reset` can tell it from a namesake.
pub const LABEL: (&str, &str) = ("io.coracle.image", "infra");

/// What the engine adds to the imported layer. Of Dockerfile instructions an import takes only a
/// few, and STOPSIGNAL is not among them: see [`STOP_SIGNAL`].
pub const CHANGES: [&str; 2] = ["ENTRYPOINT [\"/infra\"]", "LABEL io.coracle.image=infra"];

/// The only signal that ends the program; given to each container.
pub const STOP_SIGNAL: &str = "SIGKILL";

const LOAD_ADDRESS: u64 = 0x40_0000;
const ELF_HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;
/// `e_machine` of the ELF specification.
const MACHINE_X86_64: u16 = 62;
const MACHINE_AARCH64: u16 = 183;

/// `pause()` in a loop.
const CODE_X86_64: [u8; 9] = [
    0xb8, 34, 0, 0, 0, // mov eax, 34 (pause)
    0x0f, 0x05, // syscall
    0xeb, 0xf7, // jmp to the start
];

/// `ppoll(NULL, 0, NULL, NULL)` in a loop; this architecture has no `pause`. Little-endian words.
const CODE_AARCH64: [u32; 7] = [
    0xd280_0000, // mov x0, 0
    0xd280_0001, // mov x1, 0
    0xd280_0002, // mov x2, 0
    0xd280_0003, // mov x3, 0
    0xd280_0928, // mov x8, 73 (ppoll)
    0xd400_0001, // svc 0
    0x17ff_fffa, // b to the start
];

/// The image's only layer as a tar archive. `arch` is the engine's, in Go's words.
///
/// Errors for an architecture that there is no code for.
pub fn layer(arch: &str) -> Result<Vec<u8>, RuntimeError> {
    let program = match arch {
        "amd64" | "x86_64" => executable(MACHINE_X86_64, &CODE_X86_64),
        "arm64" | "aarch64" => {
            let code: Vec<u8> = CODE_AARCH64.iter().flat_map(|word| word.to_le_bytes()).collect();
            executable(MACHINE_AARCH64, &code)
        }
        other => {
            return Err(RuntimeError::Refused(format!(
                "this host's architecture is {other}; the infra container's program exists for amd64 and arm64"
            )));
        }
    };
    let mut header = tar::Header::new_ustar();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_data(&mut header, "infra", program.as_slice())
        .and_then(|()| archive.into_inner())
        .map_err(|e| RuntimeError::Refused(format!("the infra image could not be packed: {e}")))
}

/// An ELF executable of one segment: both headers, then the code, which is the entry point.
fn executable(machine: u16, code: &[u8]) -> Vec<u8> {
    let headers = u64::from(ELF_HEADER + PROGRAM_HEADER);
    let size = headers + code.len() as u64;
    let mut elf = Vec::with_capacity(160);
    // Magic, 64 bit, little-endian, version 1, System V ABI.
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend_from_slice(&2u16.to_le_bytes()); // e_type: executable
    elf.extend_from_slice(&machine.to_le_bytes());
    elf.extend_from_slice(&1u32.to_le_bytes()); // e_version
    elf.extend_from_slice(&(LOAD_ADDRESS + headers).to_le_bytes()); // e_entry
    elf.extend_from_slice(&u64::from(ELF_HEADER).to_le_bytes()); // e_phoff
    elf.extend_from_slice(&0u64.to_le_bytes()); // e_shoff: no sections
    elf.extend_from_slice(&0u32.to_le_bytes()); // e_flags
    for half in [ELF_HEADER, PROGRAM_HEADER, 1, 0, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes()); // e_ehsize, e_phentsize, e_phnum, no sections
    }
    elf.extend_from_slice(&1u32.to_le_bytes()); // p_type: load
    elf.extend_from_slice(&5u32.to_le_bytes()); // p_flags: read, execute
    // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align (the largest page size in use)
    for word in [0, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 0x1_0000] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(code);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_follows_the_headers() {
        let elf = executable(MACHINE_X86_64, &CODE_X86_64);
        assert_eq!(elf.len(), 64 + 56 + 9);
        assert_eq!(u64::from_le_bytes(elf[24..32].try_into().unwrap()), LOAD_ADDRESS + 120);
        assert_eq!(&elf[120..], CODE_X86_64);
    }

    #[test]
    fn the_loops_jump_back_to_their_first_instruction() {
        assert_eq!(i8::from_le_bytes([CODE_X86_64[8]]), -(CODE_X86_64.len() as i8));
        let branch = CODE_AARCH64[6] & 0x03ff_ffff;
        assert_eq!(branch, (-6i32 as u32) & 0x03ff_ffff);
    }

    #[test]
    fn an_architecture_without_code_is_named() {
        let error = layer("riscv64").unwrap_err().to_string();
        assert!(error.contains("riscv64") && error.contains("amd64 and arm64"), "{error}");
    }

    #[test]
    fn the_label_among_the_changes_is_the_one_that_reset_looks_for() {
        assert!(CHANGES.contains(&format!("LABEL {}={}", LABEL.0, LABEL.1).as_str()));
    }
}
