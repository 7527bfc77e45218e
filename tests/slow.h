/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file slow.h
 * A sanitizer makes everything many times slower: with one, tests take a part of their cases.
 */
#ifndef SLOW_H
#define SLOW_H

#ifndef __has_feature
#define __has_feature(name) 0
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) ||                               \
    __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SLOW 1
#else
#define SLOW 0
#endif

#endif /* SLOW_H */
