/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "base/base_door.h"

#include <limits.h>
#include <time.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

void pldi_door_shut(struct pldi_door *door)
{
    atomic_store(&door->shut, 1);
    atomic_thread_fence(memory_order_seq_cst);
}

void pldi_door_sleep(struct pldi_door *door)
{
#ifdef __linux__
    const struct timespec most = {0, PLDI_DOOR_NS};

    (void)syscall(SYS_futex, &door->shut, FUTEX_WAIT, 1, &most, NULL, 0);
#else
    const struct timespec nap = {0, PLDI_DOOR_NS / 80};

    (void)nanosleep(&nap, NULL);
#endif
    atomic_store_explicit(&door->shut, 0, memory_order_relaxed);
}

void pldi_door_wake(struct pldi_door *door)
{
    /* The first that rings wakes all. */
    if (atomic_exchange(&door->shut, 0) == 0)
        return;
#ifdef __linux__
    (void)syscall(SYS_futex, &door->shut, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
#endif
}
