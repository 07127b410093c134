/*
 * How often each cluster of an image is referred to: header, tables, active and
 * snapshots' L1 and L2 tables, bitmaps are read. Memory follows the references
 * that were read, not what the file claims to be. On the node's loop, with no
 * request.
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
    bool active;          /* the L1 table is not a snapshot's */
    bool check_copied;    /* compare COPIED flags of the active tables */
    bool fix_copied;      /* and put them right */
    bool count;           /* references; else only flags are looked at */
    bool rebuild;         /* the refcounts on disk are no base for a repair */
    int64_t block_errors; /* errors that a rebuild does away with */
    GHashTable *counts;   /* cluster >> COUNTS_BITS to struct survey_counts */
    int64_t clusters;     /* of the file */
    int64_t end;          /* no cluster from here on is referred to */
    int64_t next;         /* host offset at which no fragment would begin */
    /* The last ones looked up: neighbours follow each other. */
    int64_t counts_at;
    struct survey_counts *counts_now;
    uint8_t *refs;   /* one slice of a refcount block */
    int64_t refs_at; /* its index; -1: none */
    int refs_error;
};

/* Empty; false without memory. qcow2_survey_clear() in any case. */
bool qcow2_survey_init(struct survey *v, struct qcow2 *s);
void qcow2_survey_clear(struct survey *v);
bool co_qcow2_survey(struct survey *v, GError **error);
uint32_t *qcow2_survey_count(struct survey *v, int64_t cluster, bool make);
/* 0 for what nothing refers to. */
uint32_t qcow2_survey_count_at(struct survey *v, int64_t cluster);
/* What the disk counts: 0 or -errno. Quick for neighbours. */
int co_qcow2_survey_refcount(struct survey *v, int64_t cluster,
                             uint64_t *value);
/* How many clusters from the first on, n at most, the disk counts as often as
 * the survey does; *last becomes the last of them that is counted at all, if
 * one is. The first for which that cannot be said without asking ends it. */
int64_t co_qcow2_survey_agree(struct survey *v, int64_t cluster, int64_t n,
                              int64_t *last);
/* True if the disk counts each of n clusters once. */
bool co_qcow2_survey_all_once(struct survey *v, int64_t cluster, int64_t n);
/* The refcounts have been changed. */
void qcow2_survey_forget_refcounts(struct survey *v);

/* ---- repair.c, rebuild.c ---- */
/* Makes a refcount what it should be; -ERANGE: it cannot be. */
int co_qcow2_set_refcount(struct survey *v, int64_t cluster, uint32_t want);
/* order: of the new refcounts. */
bool co_qcow2_rebuild_refcounts(struct survey *v, unsigned order,
                                GError **error);

/* ---- for survey_tables.c and survey.c ---- */
/* One more reference to each cluster of the range. */
bool qcow2_survey_refer(struct survey *v, uint64_t offset, uint64_t bytes,
                        GError **error);
/* What is wrong: false without a report, else told. */
bool qcow2_survey_wrong(struct survey *v, GError **error, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);
/* Counts what an L1 table of n entries refers to, itself too. l1 is in the
 * host's byte order. */
bool co_qcow2_survey_l1(struct survey *v, uint64_t *l1, uint32_t n,
                        uint64_t offset, GError **error);

#endif
