/*
 * The helpers of crash_log.h.
 */
#include "crash_log.h"

#include <string.h>

struct crash_start crash_record(struct node *file)
{
    struct crash_start start = {
        g_memdup2(mem_disk_of(file)->data, file->length), file->length};

    mem_disk_record(file);
    return start;
}

/* The first event that a write with REQ_FUA before `point` says nothing of, if
 * it is a resize. */
static guint resized_for_good(const GArray *log, guint point)
{
    guint end = 0;

    for (guint i = 0; i < point; i++) {
        const struct mem_event *e = &g_array_index(log, struct mem_event, i);
        end = e->fua ? MAX(end, e->began) : end;
    }
    return end;
}

void crash_rebuild(struct node *disk, const struct crash_start *start,
                   const GArray *log, guint point, GRand *rand)
{
    guint stable = point;

    memset(mem_disk_of(disk)->data, 0, disk->length);
    memcpy(mem_disk_of(disk)->data, start->image, start->bytes);
    disk->length = start->bytes;
    while (stable && !g_array_index(log, struct mem_event, stable - 1).flush) {
        stable--;
    }
    int keep = g_rand_int_range(rand, 1, 10);
    guint resized = resized_for_good(log, point);
    for (guint i = 0; i < point; i++) {
        const struct mem_event *e = &g_array_index(log, struct mem_event, i);
        bool sure = i < stable || e->fua || (e->resize && i < resized);
        if (sure || g_rand_int_range(rand, 0, 10) < keep) {
            mem_disk_replay(disk, e);
        }
    }
}
