/*
 * How often each cluster of an image is referred to: header, tables, active and
 * snapshots' L1 and L2 tables are read. Memory follows the references that were
 * read, not what the file claims to be. On the node's loop, with no request.
 */
#ifndef VARVE_BLOCK_QCOW2_SURVEY_H
#define VARVE_BLOCK_QCOW2_SURVEY_H

#include "block/drivers/qcow2/qcow2.h"

#define SURVEY_COUNTS_BITS 8

/* Counts of 256 clusters. */
struct survey_counts {
    uint32_t n[1 << SURVEY_COUNTS_BITS];
};

struct survey {
    struct qcow2 *s;
    /* What is wrong is told, and the survey goes on; NULL: it ends there. */
    struct check_report *check;
    bool active;        /* the L1 table is not a snapshot's */
    GHashTable *counts; /* cluster >> COUNTS_BITS to struct survey_counts */
    int64_t clusters;   /* of the file */
    uint64_t *table;    /* one L2 table */
    int64_t next;       /* host offset at which no fragment would begin */
};

/* Empty; false without memory. qcow2_survey_clear() in any case. */
bool qcow2_survey_init(struct survey *v, struct qcow2 *s);
void qcow2_survey_clear(struct survey *v);
bool co_qcow2_survey(struct survey *v, GError **error);
uint32_t *qcow2_survey_count(const struct survey *v, int64_t cluster,
                             bool make);
/* 0 for what nothing refers to. */
uint32_t qcow2_survey_count_at(const struct survey *v, int64_t cluster);

#endif
