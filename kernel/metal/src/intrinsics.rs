//! What compiled code calls by name: the memory functions, and two names of the unwinder that a kernel without unwinding never
//! calls.
//!
//! The memory functions are written in assembly, so that the compiler can't turn them into calls of themselves. The C
//! contracts hold: `self_test` compares them with plain loops.

use core::arch::naked_asm;

/// # Safety
/// `from` is readable and `to` writable for `count` bytes; they don't overlap (an overlap with `to` below `from` would be well, which
/// [`memmove`] relies on).
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "cmp rdx, 16",
        "jb 3f",
        "cmp rdx, 512",
        "ja 6f",
        // 16 to 512 bytes: whole steps from the front; the last 16 were read at first and are written at last.
        "movups xmm0, [rsi + rdx - 16]",
        "lea rcx, [rdi + rdx - 16]",
        "2: cmp rdi, rcx",
        "jae 8f",
        "movups xmm1, [rsi]",
        "movups [rdi], xmm1",
        "add rsi, 16",
        "add rdi, 16",
        "jmp 2b",
        "8: movups [rcx], xmm0",
        "ret",
        // Below 16 everything is read before anything is written, so any overlap is well.
        "3: cmp edx, 8",
        "jb 4f",
        "mov rcx, [rsi]",
        "mov r8, [rsi + rdx - 8]",
        "mov [rdi], rcx",
        "mov [rdi + rdx - 8], r8",
        "ret",
        "4: cmp edx, 4",
        "jb 5f",
        "mov ecx, [rsi]",
        "mov r8d, [rsi + rdx - 4]",
        "mov [rdi], ecx",
        "mov [rdi + rdx - 4], r8d",
        "ret",
        "5: test edx, edx",
        "jz 7f",
        // One to three bytes: the first, the middle, the last.
        "mov r10, rdx",
        "shr r10, 1",
        "movzx ecx, byte ptr [rsi]",
        "movzx r8d, byte ptr [rsi + r10]",
        "movzx r9d, byte ptr [rsi + rdx - 1]",
        "mov [rdi], cl",
        "mov [rdi + r10], r8b",
        "mov [rdi + rdx - 1], r9b",
        "7: ret",
        "6: mov rcx, rdx",
        "rep movsb",
        "ret",
    )
}

/// # Safety
/// `from` is readable and `to` writable for `count` bytes; they may overlap.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "sub rax, rsi",
        "cmp rax, rdx",
        "jae {memcpy}",
        "cmp rdx, 16",
        "jb {memcpy}",
        // `to` lies inside the source: from the back; the first 16 were read at first and are written at last.
        "mov rax, rdi",
        "movups xmm0, [rsi]",
        "2: cmp rdx, 16",
        "jbe 3f",
        "movups xmm1, [rsi + rdx - 16]",
        "movups [rdi + rdx - 16], xmm1",
        "sub rdx, 16",
        "jmp 2b",
        "3: movups [rdi], xmm0",
        "ret",
        memcpy = sym memcpy,
    )
}

/// # Safety
/// `to` is writable for `count` bytes.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    naked_asm!(
        "mov r8, rdi",
        "movzx eax, sil",
        "mov rcx, 0x0101010101010101",
        "imul rax, rcx",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep stosq",
        "mov ecx, edx",
        "and ecx, 7",
        "rep stosb",
        "mov rax, r8",
        "ret",
    )
}

/// # Safety
/// Both are readable for `count` bytes.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, count: usize) -> i32 {
    naked_asm!(
        // Eight at a time while they are equal.
        "2: cmp rdx, 8",
        "jb 3f",
        "mov rax, [rdi]",
        "mov rcx, [rsi]",
        "cmp rax, rcx",
        "jne 5f",
        "add rdi, 8",
        "add rsi, 8",
        "sub rdx, 8",
        "jmp 2b",
        "3: test rdx, rdx",
        "jz 4f",
        "movzx eax, byte ptr [rdi]",
        "movzx ecx, byte ptr [rsi]",
        "sub eax, ecx",
        "jnz 6f",
        "inc rdi",
        "inc rsi",
        "dec rdx",
        "jmp 3b",
        "4: xor eax, eax",
        "6: ret",
        // The first byte that differs is the most significant one in big-endian order.
        "5: bswap rax",
        "bswap rcx",
        "cmp rax, rcx",
        "sbb eax, eax",
        "or eax, 1",
        "ret",
    )
}

/// # Safety
/// Both are readable for `count` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, count: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(one, other, count) }
}

/// # Safety
/// `text` ends with a zero byte.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn strlen(text: *const u8) -> usize {
    naked_asm!("xor eax, eax", "2: cmp byte ptr [rdi + rax], 0", "je 3f", "inc rax", "jmp 2b", "3: ret",)
}

/// The precompiled `core` names it; with aborting panics nobody calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() -> ! {
    panic!("unwinding in the kernel");
}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    panic!("unwinding in the kernel");
}
