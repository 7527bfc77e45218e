/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file cuda_emulate_fiber.h
 * Stacks of their own, and the change from one to another, known to the sanitizers.
 *
 * On x86-64 a few instructions: swapcontext() makes a system call each time, and a block
 * with barriers changes stacks thousands of times.
 */
#ifndef CUDA_EMULATE_FIBER_H
#define CUDA_EMULATE_FIBER_H

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>

/* All that has no name in CUDA. */
#define FAKE_BEGIN                                                                                 \
    namespace fake                                                                                 \
    {
#define FAKE_END }

#if defined(__has_feature)
#define FAKE_HAS(feature) __has_feature(feature)
#else
#define FAKE_HAS(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || FAKE_HAS(address_sanitizer)
#define FAKE_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__) || FAKE_HAS(thread_sanitizer)
#define FAKE_TSAN 1
#include <sanitizer/tsan_interface.h>
#endif
#ifndef __x86_64__
#include <ucontext.h>
#endif

FAKE_BEGIN
struct fiber {
    void *stack; /* its top of stack while another runs; x86-64 */
    char *memory;
    size_t bytes;
    void (*body)(void *);
    void *argument;
    void *asan; /* AddressSanitizer's own, while another runs */
    void *tsan;
#ifndef __x86_64__
    ucontext_t context;
#endif
};

/* Room for the largest kernel's locals, with the red zones of AddressSanitizer. */
enum { STACK_BYTES = 256 << 10, GUARD_BYTES = 4096 };

#ifdef __x86_64__
extern "C" __attribute__((visibility("hidden"))) void fake_fiber_change(void **from, void *to);
asm(".text\n"
    ".hidden fake_fiber_change\n"
    ".globl fake_fiber_change\n"
    ".type fake_fiber_change,@function\n"
    "fake_fiber_change:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size fake_fiber_change,.-fake_fiber_change\n");
#endif

/* Where the change came from, for its first moments on the other stack. */
static fiber *coming_from;

static void arrived(fiber *at)
{
#ifdef FAKE_ASAN
    const void *bottom;
    size_t bytes;

    __sanitizer_finish_switch_fiber(at->asan, &bottom, &bytes);
    if (coming_from->memory == nullptr) { /* the thread's own stack, known only now */
        coming_from->memory = static_cast<char *>(const_cast<void *>(bottom));
        coming_from->bytes = bytes;
    }
#else
    (void)at;
#endif
}

static void fiber_switch(fiber *from, fiber *to)
{
    coming_from = from;
#ifdef FAKE_ASAN
    __sanitizer_start_switch_fiber(&from->asan, to->memory, to->bytes);
#endif
#ifdef FAKE_TSAN
    __tsan_switch_to_fiber(to->tsan, 0);
#endif
#ifdef __x86_64__
    fake_fiber_change(&from->stack, to->stack);
#else
    swapcontext(&from->context, &to->context);
#endif
    arrived(from);
}

/* The first thing on a new stack; never returns. */
static fiber *first_of;

static void fiber_begin()
{
    fiber *me = first_of;

    arrived(me);
    me->body(me->argument);
    abort();
}

static void fiber_prepare(fiber *f)
{
#ifdef __x86_64__
    void **top = reinterpret_cast<void **>(f->memory + f->bytes) - 2;

    *top = reinterpret_cast<void *>(fiber_begin); /* what the change returns to */
    f->stack = top - 6;                           /* six registers */
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->memory;
    f->context.uc_stack.ss_size = f->bytes;
    makecontext(&f->context, fiber_begin, 0);
#endif
}

/* To be switched to at once: the next first switch must be to it. */
static fiber *fiber_new(void (*body)(void *), void *argument)
{
    fiber *f = static_cast<fiber *>(calloc(1, sizeof(*f)));
    void *memory = mmap(nullptr, STACK_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (f == nullptr || memory == MAP_FAILED || mprotect(memory, GUARD_BYTES, PROT_NONE) != 0) {
        fprintf(stderr, "no memory for a stack of %d bytes\n", (int)STACK_BYTES);
        abort();
    }
    f->memory = static_cast<char *>(memory) + GUARD_BYTES;
    f->bytes = STACK_BYTES;
    f->body = body;
    f->argument = argument;
    fiber_prepare(f);
#ifdef FAKE_TSAN
    f->tsan = __tsan_create_fiber(0);
#endif
    first_of = f;
    return f;
}

static void fiber_free(fiber *f)
{
#ifdef FAKE_TSAN
    __tsan_destroy_fiber(f->tsan);
#endif
#ifdef FAKE_ASAN
    __asan_unpoison_memory_region(f->memory, f->bytes);
#endif
    munmap(f->memory - GUARD_BYTES, STACK_BYTES + GUARD_BYTES);
    free(f);
}

/* The stack of the thread that calls. */
static void fiber_here(fiber *f)
{
    *f = fiber();
#ifdef FAKE_TSAN
    f->tsan = __tsan_get_current_fiber();
#endif
}

/* Nobody may touch that memory, or may again. */
static void fiber_close(void *memory, size_t bytes)
{
#ifdef FAKE_ASAN
    __asan_poison_memory_region(memory, bytes);
#else
    (void)memory, (void)bytes;
#endif
}

static void fiber_open(void *memory, size_t bytes)
{
#ifdef FAKE_ASAN
    __asan_unpoison_memory_region(memory, bytes);
#else
    (void)memory, (void)bytes;
#endif
}
FAKE_END

#endif /* CUDA_EMULATE_FIBER_H */
