/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A loop that lives in registers alone
 *
 * spin_in_registers() loads every register it can from @in, counts down in
 * memory while nothing but these registers holds the values, and stores what
 * it then finds to @out.  A thread that is copied in the meantime is nearly
 * always copied inside the countdown.
 */

#ifndef _FULLFORK_REGISTERS_H
#define _FULLFORK_REGISTERS_H

#include <linux/types.h>
#include <stdbool.h>
#include <string.h>

enum {
	BAD_GPR		= 1 << 0,
	BAD_FLAGS	= 1 << 1,
	BAD_X87		= 1 << 2,
	BAD_VECTOR	= 1 << 3,
	BAD_CONTROL	= 1 << 4,
	BAD_TLS		= 1 << 5,
};

#ifdef __x86_64__

#define NR_GPRS 15
#define FLAG_CF (1UL << 0)
#define FLAG_DF (1UL << 10)
#define FLAG_ID (1UL << 21)

struct register_file {
	__u64 gpr[NR_GPRS];		/* 0 */
	__u64 flags;			/* 120 */
	double x87[8];			/* 128 */
	__u8 ymm[16][32];		/* 192 */
	__u16 x87_control;		/* 704 */
	__u16 pad;
	__u32 mxcsr;			/* 708 */
};

void spin_in_registers(const struct register_file *in,
		       struct register_file *out, __u64 rounds,
		       __u64 has_avx);

/*
 * On the stack while it spins, from %rsp: the countdown, in, out, has_avx.
 * "dec" leaves CF alone, so CF, DF and ID stay as they were set.
 */
asm("	.text\n"
	"	.p2align 4\n"
	"	.type spin_in_registers, @function\n"
	"spin_in_registers:\n"
	"	push %rbx\n"
	"	push %rbp\n"
	"	push %r12\n"
	"	push %r13\n"
	"	push %r14\n"
	"	push %r15\n"
	"	push %rcx\n"
	"	push %rsi\n"
	"	push %rdi\n"
	"	push %rdx\n"
	"	sub $8, %rsp\n"
	"	fnstcw (%rsp)\n"
	"	stmxcsr 4(%rsp)\n"
	"	fninit\n"
	"	fldcw 704(%rdi)\n"
	"	ldmxcsr 708(%rdi)\n"
	"	fldl 128(%rdi)\n"
	"	fldl 136(%rdi)\n"
	"	fldl 144(%rdi)\n"
	"	fldl 152(%rdi)\n"
	"	fldl 160(%rdi)\n"
	"	fldl 168(%rdi)\n"
	"	fldl 176(%rdi)\n"
	"	fldl 184(%rdi)\n"
	"	test %rcx, %rcx\n"
	"	jz 1f\n"
	"	.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
	"	vmovdqu 192 + 32 * \\n(%rdi), %ymm\\n\n"
	"	.endr\n"
	"	jmp 2f\n"
	"1:\n"
	"	.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
	"	movdqu 192 + 32 * \\n(%rdi), %xmm\\n\n"
	"	.endr\n"
	"2:\n"
	"	pushq 120(%rdi)\n"
	"	popfq\n"
	"	mov 0(%rdi), %rax\n"
	"	mov 8(%rdi), %rbx\n"
	"	mov 16(%rdi), %rcx\n"
	"	mov 24(%rdi), %rdx\n"
	"	mov 32(%rdi), %rsi\n"
	"	mov 48(%rdi), %rbp\n"
	"	mov 56(%rdi), %r8\n"
	"	mov 64(%rdi), %r9\n"
	"	mov 72(%rdi), %r10\n"
	"	mov 80(%rdi), %r11\n"
	"	mov 88(%rdi), %r12\n"
	"	mov 96(%rdi), %r13\n"
	"	mov 104(%rdi), %r14\n"
	"	mov 112(%rdi), %r15\n"
	"	mov 40(%rdi), %rdi\n"
	"3:	decq 8(%rsp)\n"
	"	jnz 3b\n"
	"	push %rdi\n"
	"	mov 32(%rsp), %rdi\n"
	"	mov %rax, 0(%rdi)\n"
	"	pop %rax\n"
	"	mov %rax, 40(%rdi)\n"
	"	mov %rbx, 8(%rdi)\n"
	"	mov %rcx, 16(%rdi)\n"
	"	mov %rdx, 24(%rdi)\n"
	"	mov %rsi, 32(%rdi)\n"
	"	mov %rbp, 48(%rdi)\n"
	"	mov %r8, 56(%rdi)\n"
	"	mov %r9, 64(%rdi)\n"
	"	mov %r10, 72(%rdi)\n"
	"	mov %r11, 80(%rdi)\n"
	"	mov %r12, 88(%rdi)\n"
	"	mov %r13, 96(%rdi)\n"
	"	mov %r14, 104(%rdi)\n"
	"	mov %r15, 112(%rdi)\n"
	"	pushfq\n"
	"	popq 120(%rdi)\n"
	"	cld\n"
	"	fstpl 184(%rdi)\n"
	"	fstpl 176(%rdi)\n"
	"	fstpl 168(%rdi)\n"
	"	fstpl 160(%rdi)\n"
	"	fstpl 152(%rdi)\n"
	"	fstpl 144(%rdi)\n"
	"	fstpl 136(%rdi)\n"
	"	fstpl 128(%rdi)\n"
	"	fnstcw 704(%rdi)\n"
	"	stmxcsr 708(%rdi)\n"
	"	cmpq $0, 32(%rsp)\n"
	"	je 4f\n"
	"	.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
	"	vmovdqu %ymm\\n, 192 + 32 * \\n(%rdi)\n"
	"	.endr\n"
	"	vzeroupper\n"
	"	jmp 5f\n"
	"4:\n"
	"	.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
	"	movdqu %xmm\\n, 192 + 32 * \\n(%rdi)\n"
	"	.endr\n"
	"5:\n"
	"	fninit\n"
	"	fldcw (%rsp)\n"
	"	ldmxcsr 4(%rsp)\n"
	"	add $40, %rsp\n"
	"	pop %r15\n"
	"	pop %r14\n"
	"	pop %r13\n"
	"	pop %r12\n"
	"	pop %rbp\n"
	"	pop %rbx\n"
	"	ret\n"
	"	.size spin_in_registers, . - spin_in_registers\n");

#define MXCSR_MASKED 0x1f80
#define X87_MASKED 0x037f

static inline bool cpu_has_avx(void)
{
	return __builtin_cpu_supports("avx");
}

/* Fills @r with values that tell thread, register and byte apart. */
static inline void fill_registers(struct register_file *r, unsigned int seed)
{
	__u64 x = seed * 0x9e3779b97f4a7c15ULL + 1;
	int i, j;

	memset(r, 0, sizeof(*r));
	for (i = 0; i < NR_GPRS; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		r->gpr[i] = x;
	}
	for (i = 0; i < 8; i++)
		r->x87[i] = (double)(seed * 100 + i) + 0.25;
	for (i = 0; i < 16; i++)
		for (j = 0; j < (cpu_has_avx() ? 32 : 16); j++)
			r->ymm[i][j] = seed * 37 + i * 32 + j;
	r->flags = 0x202;
	if (seed & 1)
		r->flags |= FLAG_CF;
	if (seed & 2)
		r->flags |= FLAG_DF;
	if (seed & 4)
		r->flags |= FLAG_ID;
	/* The rounding mode is the field that differs between threads. */
	r->x87_control = X87_MASKED | (seed & 3) << 10;
	r->mxcsr = MXCSR_MASKED | (seed & 3) << 13;
}

/* Returns the BAD_* bits of what changed while the thread was spinning. */
static inline unsigned int spin_and_compare(unsigned int seed, __u64 rounds)
{
	const __u64 flags = FLAG_CF | FLAG_DF | FLAG_ID;
	struct register_file in, out;
	unsigned int bad = 0;

	fill_registers(&in, seed);
	memset(&out, 0, sizeof(out));
	spin_in_registers(&in, &out, rounds, cpu_has_avx());
	if (memcmp(in.gpr, out.gpr, sizeof(in.gpr)))
		bad |= BAD_GPR;
	if ((in.flags & flags) != (out.flags & flags))
		bad |= BAD_FLAGS;
	if (memcmp(in.x87, out.x87, sizeof(in.x87)))
		bad |= BAD_X87;
	if (memcmp(in.ymm, out.ymm, sizeof(in.ymm)))
		bad |= BAD_VECTOR;
	if (in.x87_control != out.x87_control ||
	    (in.mxcsr & ~0x3fU) != (out.mxcsr & ~0x3fU))
		bad |= BAD_CONTROL;
	return bad;
}

#else /* !__x86_64__ */

#define MIX(x, y) ((x) = ((x) ^ (y)) * 0x9e3779b97f4a7c15ULL + 1)

/*
 * Enough live values for the compiler to fill the registers with.  The same
 * sums are made again and again and must stay what they were.
 */
static inline void mix_values(unsigned int seed, __u64 rounds,
			      __u64 *sum, double *fsum)
{
	__u64 a = seed, b = seed + 1, c = seed + 2, d = seed + 3;
	__u64 e = seed + 4, f = seed + 5, g = seed + 6, h = seed + 7;
	double u = seed + 0.5, v = seed + 0.25, w = seed + 0.125;

	while (rounds--) {
		MIX(a, b);
		MIX(b, c);
		MIX(c, d);
		MIX(d, e);
		MIX(e, f);
		MIX(f, g);
		MIX(g, h);
		MIX(h, a);
		u = u * 0.75 + v;
		v = v * 0.5 + w;
		w = w * 0.25 + 1.0;
	}
	*sum = a ^ b ^ c ^ d ^ e ^ f ^ g ^ h;
	*fsum = u + v + w;
}

static inline unsigned int spin_and_compare(unsigned int seed, __u64 rounds)
{
	static __thread __u64 sum, last_rounds;
	static __thread double fsum;
	unsigned int bad = 0;
	__u64 now_sum;
	double now_fsum;

	if (last_rounds != rounds) {
		mix_values(seed, rounds, &sum, &fsum);
		last_rounds = rounds;
	}
	mix_values(seed, rounds, &now_sum, &now_fsum);
	if (now_sum != sum)
		bad |= BAD_GPR;
	if (now_fsum != fsum)
		bad |= BAD_VECTOR;
	return bad;
}

#endif /* __x86_64__ */

#endif /* _FULLFORK_REGISTERS_H */
