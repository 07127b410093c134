/*
 * Memory for I/O: aligned as the node demands, and to a page at least, so that
 * a buffer of one node also serves the next.
 *
 * Any thread; freed with io_buffer_free().
 */
#include "block/request.h"

#include <stdlib.h>
#include "util/range.h"

#define PAGE_ALIGN 4096

void *io_buffer_try_alloc(struct node *node, size_t bytes)
{
    size_t align = max_i64(node->limits.memory_alignment, PAGE_ALIGN);
    void *buffer;

    if (posix_memalign(&buffer, align, bytes ? bytes : 1)) {
        return NULL;
    }
    return buffer;
}

void io_buffer_free(void *buffer)
{
    free(buffer);
}
