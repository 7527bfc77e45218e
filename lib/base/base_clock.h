/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file base_clock.h  The clock that everything is measured with. */
#ifndef PLDI_BASE_CLOCK_H
#define PLDI_BASE_CLOCK_H

/** Seconds since an arbitrary moment; never jumps. */
double pldi_now(void);

#endif /* PLDI_BASE_CLOCK_H */
