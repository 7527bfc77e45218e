/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file base_cpu.h  Hints to the processor about memory that another one uses, too. */
#ifndef PLDI_BASE_CPU_H
#define PLDI_BASE_CPU_H

/** A breath between two looks. */
static inline void pldi_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/** Fetch a line that will soon be written.  (The builtin does so only where it is told that
 *  the processor can; those that cannot take it for nothing.) */
static inline void pldi_fetch_to_write(const volatile void *line)
{
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" : : "m"(*(const volatile char *)line));
#else
    __builtin_prefetch((const void *)line, 1);
#endif
}

#endif /* PLDI_BASE_CPU_H */
