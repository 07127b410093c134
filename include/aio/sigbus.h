/*
 * Shared memory whose other owner may take it away.
 *
 * Touching a mapped page behind the end of a file that was made shorter raises
 * SIGBUS. For a range that is guarded, the page is replaced by one of zeroes,
 * the range is marked, and the access goes on; elsewhere the signal ends the
 * program as ever. System calls on such a page fail with EFAULT by themselves.
 */
#ifndef VARVE_AIO_SIGBUS_H
#define VARVE_AIO_SIGBUS_H

#include <stdbool.h>
#include <stddef.h>

struct sigbus_range {
    char *base; /* of a mapping that the caller made, at a page's start */
    size_t bytes;
    size_t page_bytes; /* of the mapping; a power of 2 */
    int lost;          /* private */
};

/* From now on accesses by any thread are guarded; false if there are too many
 * ranges. Fill base, bytes and page_bytes before. Any thread. */
bool sigbus_range_add(struct sigbus_range *r);
/* Before the mapping goes, and when nobody touches it any more. */
void sigbus_range_remove(struct sigbus_range *r);
/* True once a page of the range was lost. */
bool sigbus_range_lost(const struct sigbus_range *r);
/* Grows with each lost page of any range: one read tells that there is nothing
 * to look for. */
extern unsigned sigbus_lost_pages; /* private */
static inline unsigned sigbus_count(void)
{
    return __atomic_load_n(&sigbus_lost_pages, __ATOMIC_ACQUIRE);
}

#endif
