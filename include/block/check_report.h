/*
 * What a format finds when it checks its own metadata (varve-img check).
 */
#ifndef VARVE_BLOCK_CHECK_REPORT_H
#define VARVE_BLOCK_CHECK_REPORT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

enum check_report_kind {
    CHECK_REPORT_ERROR, /* data are in danger */
    CHECK_REPORT_LEAK,  /* space is wasted */
};

struct check_report {
    bool fix_leaks, fix_errors; /* what is to be repaired */
    int64_t errors, leaks;      /* found, and still there */
    int64_t errors_fixed, leaks_fixed;
    int64_t check_errors; /* what could not be looked at */
    int64_t allocated, total, fragmented, compressed; /* clusters of data */
    int64_t end; /* the file could be this short, in bytes */
    /* Hears of each finding, and whether it is being repaired; does not
     * suspend. */
    void (*found)(struct check_report *check, enum check_report_kind kind,
                  bool fixed, const char *message);
};

/* Counts and tells. */
void check_report_fixable(struct check_report *check,
                          enum check_report_kind kind, bool fixed,
                          const char *fmt, ...) G_GNUC_PRINTF(4, 5);
/* The same for what stays as it is. */
void check_report_add(struct check_report *check, enum check_report_kind kind,
                      const char *fmt, ...) G_GNUC_PRINTF(3, 4);

#endif
