/*
 * varve-img convert: what its options say, and what copies by that.
 */
#ifndef VARVE_TOOLS_VARVE_IMG_CONVERT_H
#define VARVE_TOOLS_VARVE_IMG_CONVERT_H

#include "aio/colock.h"
#include "tools/varve-img/img.h"
#include "util/bucket.h"

struct convert_source {
    struct image_open how;
    struct backend *b;
    struct img_known known;
    int64_t start, bytes; /* in the target; whole sectors */
};

struct convert {
    struct convert_source *src; /* one behind the other */
    unsigned sources;
    struct image_open to;
    const char *format;  /* NULL: not said */
    const char *options; /* -o */
    const char *backing_file, *backing_format;
    bool existing; /* -n */
    bool compressed, quiet, salvage;
    bool copy_range; /* -C, as long as it works */
    bool bitmaps, skip_broken;
    int64_t unit;   /* pieces begin at multiples: the cluster with -c, else 1 */
    int64_t chunk;  /* a power of two, and a multiple of unit */
    int64_t sparse; /* zeroes of this length are not written; 0 = write all */
    struct backend *dst;
    struct co_pool pool;
    struct bucket rate;
    struct progress progress;
    int64_t total, done;
    bool target_is_zero; /* it was said to be */
    int64_t zero_from;   /* it reads as zeroes from there on where nothing is
                            written; a multiple of unit */
    bool failed;         /* and it was said why */
};

/* Copies the sources, which are open, into dst; false after saying what went
 * wrong. Suspends. */
bool co_convert_copy(struct convert *c);

#endif
