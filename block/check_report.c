/*
 * Counting what a check finds. On the node's loop.
 */
#include "block/check_report.h"

void check_report_add(struct check_report *check, enum check_report_kind kind,
                      const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *message = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    *(kind == CHECK_REPORT_LEAK ? &check->leaks : &check->errors) += 1;
    check->found(check, kind, message);
}
