/*
 * Counting what a check finds. On the node's loop.
 */
#include "block/check_report.h"

static void add(struct check_report *check, enum check_report_kind kind,
                bool fixed, const char *fmt, va_list ap)
{
    g_autofree char *message = g_strdup_vprintf(fmt, ap);
    bool leak = kind == CHECK_REPORT_LEAK;
    int64_t *n = leak ? &check->leaks : &check->errors;

    if (fixed) {
        n = leak ? &check->leaks_fixed : &check->errors_fixed;
    }
    ++*n;
    check->found(check, kind, fixed, message);
}

void check_report_fixable(struct check_report *check,
                          enum check_report_kind kind, bool fixed,
                          const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    add(check, kind, fixed, fmt, ap);
    va_end(ap);
}

void check_report_add(struct check_report *check, enum check_report_kind kind,
                      const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    add(check, kind, false, fmt, ap);
    va_end(ap);
}
