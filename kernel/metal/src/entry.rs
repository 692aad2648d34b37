//! The first instructions, on the boot CPU and on the others.
//!
//! Both loaders enter at `boot_entry` in 32-bit protected mode without paging: PVH (Xen's `pvh` boot ABI: `ebx` =
//! start-info) and multiboot2 (§3.3: `eax` = magic, `ebx` = information). The code maps the first 4 GiB one to one, again at
//! the direct map, and the kernel's image at the top, with large pages, everything allowed; `memory::paging` replaces
//! that by exact tables. The other CPUs start in real mode (Intel SDM vol. 3, §9.4) from a copy of `trampoline`.

use core::arch::global_asm;

/// Pages of the stack that the boot CPU starts on and later idles on.
pub const BOOT_STACK_PAGES: usize = 16;

global_asm!(
    r#"
.section .boot.header, "a"
.balign 8
multiboot2_header:
    .long 0xe85250d6                /* magic */
    .long 0                         /* architecture: i386, protected mode */
    .long multiboot2_header_end - multiboot2_header
    .long -(0xe85250d6 + (multiboot2_header_end - multiboot2_header))
    .balign 8                       /* framebuffer: any size, 32 bits a pixel, optional (flags 1) */
    .short 5, 1
    .long 20
    .long 1024, 768, 32
    .balign 8                       /* modules on page boundaries */
    .short 6, 0
    .long 8
    .balign 8
    .short 0, 0
    .long 8
multiboot2_header_end:

.section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18                  /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long boot_entry

.section .boot.text, "awx"
.code32
.global boot_entry
boot_entry:
    cli
    cld
    mov edi, eax
    mov esi, ebx
    mov esp, offset boot_stack_end - {base}

    /* Level 1 (from the bottom): 2,048 large pages of 2 MiB cover 4 GiB. */
    mov ebx, offset boot_directory - {base}
    mov eax, 0x83
    xor edx, edx
    xor ecx, ecx
2:  mov [ebx + ecx*8], eax
    mov [ebx + ecx*8 + 4], edx
    add eax, 0x200000
    inc ecx
    cmp ecx, 2048
    jne 2b

    /* Level 3: the four directories; the same for addresses from 0 and from the direct map. */
    mov ebx, offset boot_low_pointers - {base}
    mov eax, offset boot_directory - {base} + 3
    xor ecx, ecx
3:  mov [ebx + ecx*8], eax
    add eax, 0x1000
    inc ecx
    cmp ecx, 4
    jne 3b
    /* The kernel's image: the last 2 GiB begin with the first directory. */
    mov ebx, offset boot_high_pointers - {base}
    mov eax, offset boot_directory - {base} + 3
    mov [ebx + 510*8], eax

    mov ebx, offset kernel_root_table - {base}
    mov eax, offset boot_low_pointers - {base} + 3
    mov [ebx], eax
    mov [ebx + 256*8], eax
    mov eax, offset boot_high_pointers - {base} + 3
    mov [ebx + 511*8], eax
    mov cr3, ebx

    mov eax, cr4
    or eax, {cr4}
    mov cr4, eax
    mov ecx, 0xc0000080             /* EFER: long mode, no-execute */
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, {cr0}
    mov cr0, eax

    mov eax, offset boot_gdt_pointer
    lgdt [eax]
    push 0x08
    mov eax, offset boot_long
    push eax
    retf

.code64
boot_long:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    movabs rsp, offset boot_stack_end
    xor ebp, ebp
    mov edi, edi
    mov esi, esi
    movabs rax, offset kernel_start
    call rax
4:  hlt
    jmp 4b

.balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9a000000ffff        /* 64-bit code */
    .quad 0x00cf92000000ffff        /* data */
    .quad 0x00cf9a000000ffff        /* 32-bit code, for the trampoline */
boot_gdt_pointer:
    .short 31
    .long boot_gdt

/* Copied to a page below 1 MiB; runs there, so every address is computed from cs or patched (the fields at the end). */
.section .rodata.trampoline, "a"
.code16
.global trampoline
trampoline:
    jmp 6f
.balign 8                           /* at offset 8, where the code below looks for it */
.global trampoline_gdt_pointer
trampoline_gdt_pointer:
    .short 31
    .long trampoline_gdt - trampoline
6:  cli
    cld
    mov ax, cs
    mov ds, ax
    lgdt [8]
    mov eax, cr0
    or eax, 1
    mov cr0, eax
    .byte 0x66, 0xea                /* far jump to 32-bit code, target patched */
.global trampoline_far_target
trampoline_far_target:
    .long trampoline_protected - trampoline
    .short 0x18
.code32
trampoline_protected:
    mov ax, 0x10
    mov ds, ax
    mov ss, ax
    mov eax, cr4
    or eax, {cr4}
    mov cr4, eax
    mov eax, offset kernel_root_table - {base}
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, {cr0}
    mov cr0, eax
    .byte 0xea                      /* far jump to 64-bit code, target patched */
.global trampoline_long_target
trampoline_long_target:
    .long trampoline_long - trampoline
    .short 0x08
.code64
trampoline_long:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov rsp, [rip + trampoline_stack]
    mov rdi, [rip + trampoline_cpu]
    xor ebp, ebp
    movabs rax, offset cpu_start
    call rax
5:  hlt
    jmp 5b
.balign 8
trampoline_gdt:
    .quad 0
    .quad 0x00af9a000000ffff
    .quad 0x00cf92000000ffff
    .quad 0x00cf9a000000ffff
.global trampoline_stack
trampoline_stack:
    .quad 0
.global trampoline_cpu
trampoline_cpu:
    .quad 0
.global trampoline_end
trampoline_end:

.section .bss.boot, "aw", @nobits
.balign 4096
boot_low_pointers:
    .skip 4096
boot_high_pointers:
    .skip 4096
boot_directory:
    .skip 4096*4
.global kernel_root_table
kernel_root_table:
    .skip 4096
    .skip 4096                      /* guard page below the boot stack, unmapped by memory::paging */
.global boot_stack
boot_stack:
    .skip {stack}
boot_stack_end:
.text
"#,
    base = const 0xffff_ffff_8000_0000u64,
    stack = const BOOT_STACK_PAGES * 4096,
    // PAE, OSFXSR, OSXMMEXCPT (SDM vol. 3, §2.5): SSE on, OSXSAVE off, so that fxsave covers all state there is.
    cr4 = const 1 << 5 | 1 << 9 | 1 << 10,
    // PG, WP, NE, MP, ET, PE; EM, TS clear; caches on.
    cr0 = const 0x8001_0033u32,
);
