/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include HEADER
#include HEADER

int main()
{
    return 0;
}
