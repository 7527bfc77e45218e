/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file mma.h  Stands for the toolkit's where device code is emulated. */
#ifndef FAKE_MMA_H
#define FAKE_MMA_H

#include "cuda_emulate_mma.h"

#endif /* FAKE_MMA_H */
