/*
 * The memory of slices.
 *
 * A heap puts a slice that is aligned to a page into two pages, and gives none
 * of them back while anything lies behind it. So the slices of a cache have
 * places of their own in a range of addresses as large as the cache may become;
 * pages are taken when a place is first used, and given back when its entry is
 * dropped. Slices smaller than a page, and those beyond the limit that requests
 * in flight may need, come from the heap.
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/cache.h"

#include <sys/mman.h>
#include "block/graph.h"
#include "block/node.h"
#include "block/request.h"

#define PAGE 4096

void cache_memory_init(struct cache_memory *m, struct node *node,
                       size_t slice_size, size_t slices)
{
    *m = (struct cache_memory){.node = node, .slice_size = slice_size};
    if (slice_size < PAGE ||
        node->file->child->limits.memory_alignment > PAGE) {
        return;
    }
    char *base = mmap(NULL, slices * slice_size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base != MAP_FAILED) {
        m->base = base;
        m->end = base + slices * slice_size;
        m->fresh = base;
        m->free = g_array_new(false, false, sizeof(char *));
    }
}

void cache_memory_destroy(struct cache_memory *m)
{
    if (m->base) {
        munmap(m->base, m->end - m->base);
        g_array_free(m->free, true);
        m->base = NULL;
    }
}

void *cache_memory_get(struct cache_memory *m)
{
    if (m->base && m->free->len) {
        void *place = g_array_index(m->free, char *, m->free->len - 1);
        g_array_set_size(m->free, m->free->len - 1);
        return place;
    }
    if (m->fresh < m->end) {
        m->fresh += m->slice_size;
        return m->fresh - m->slice_size;
    }
    return io_buffer_try_alloc(m->node->file->child, m->slice_size);
}

void cache_memory_put(struct cache_memory *m, void *slice)
{
    char *place = slice;

    if (place && m->base && place >= m->base && place < m->end) {
        (void)madvise(place, m->slice_size, MADV_DONTNEED);
        g_array_append_val(m->free, place);
    } else {
        io_buffer_free(slice);
    }
}
