/*
 * The helpers of crash_log.h.
 */
#include "crash_log.h"

#include <string.h>

struct crash_start crash_start(struct node *file)
{
    return (struct crash_start){
        file, g_memdup2(mem_disk_of(file)->data, file->length), file->length};
}

struct crash_start crash_record(struct node *file)
{
    mem_disk_record(file);
    return crash_start(file);
}

uint64_t crash_stable(const GArray *log, const struct node *disk, guint point)
{
    uint64_t stable = 0;

    for (guint i = 0; i < point; i++) {
        const struct mem_event *e = &g_array_index(log, struct mem_event, i);
        if (e->flush && e->disk == disk) {
            stable = MAX(stable, e->time);
        }
    }
    return stable;
}

/* The first event that a write with REQ_FUA before `point` says nothing of, if
 * it is a resize. */
static guint resized_for_good(const GArray *log, const struct node *disk,
                              guint point)
{
    guint end = 0;

    for (guint i = 0; i < point; i++) {
        const struct mem_event *e = &g_array_index(log, struct mem_event, i);
        if (e->fua && e->disk == disk) {
            end = MAX(end, e->began);
        }
    }
    return end;
}

void crash_rebuild(struct node *disk, const struct crash_start *start,
                   const GArray *log, guint point, GRand *rand)
{
    const struct mem_event *events = (const struct mem_event *)log->data;
    uint64_t stable = crash_stable(log, start->disk, point);
    guint resized = resized_for_good(log, start->disk, point);

    memset(mem_disk_of(disk)->data, 0, disk->length);
    if (start->bytes) {
        memcpy(mem_disk_of(disk)->data, start->image, start->bytes);
    }
    disk->length = start->bytes;
    int keep = g_rand_int_range(rand, 1, 10);
    for (guint i = 0; i < point; i++) {
        const struct mem_event *e = &events[i];
        if (e->disk != start->disk) {
            continue;
        }
        if (e->time < stable || e->fua || (e->resize && i < resized)) {
            mem_disk_replay(disk, e, NULL);
        } else if (g_rand_int_range(rand, 0, 10) < keep) {
            mem_disk_replay(disk, e,
                            g_rand_int_range(rand, 0, 4) ? NULL : rand);
        }
    }
}
