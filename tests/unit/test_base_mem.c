/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <stdint.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "tap.h"

int main(void)
{
    unsigned char *p = pldi_alloc(100, 3, "test");
    unsigned sum = 0;
    char *text;

    for (int i = 0; i < 300; i++)
        sum += p[i];
    ok(sum == 0 && (uintptr_t)p % PLDI_ALIGN == 0, "zeroed and aligned");
    pldi_free(p);
    p = pldi_alloc(0, 8, "test");
    ok(p != NULL, "count 0 is a pointer");
    pldi_free(p);
    ok(pldi_alloc(SIZE_MAX / 2, 3, "giants") == NULL, "overflow is refused");
    ok(strstr(pld_last_error(), "giants") != NULL, "and named: %s", pld_last_error());
    text = pldi_format("%s-%05d", "step", 12);
    ok(strcmp(text, "step-00012") == 0, "format");
    pldi_free(text);
    text = pldi_strdup("abc");
    ok(strcmp(text, "abc") == 0, "strdup");
    pldi_free(text);
    pldi_free(NULL);
    return tap_done();
}
