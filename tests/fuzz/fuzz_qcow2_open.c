/*
 * A qcow2 image of any content: opened, read, asked for its status, and, if it
 * opens for writing, changed. Nothing that it says may lead out of bounds, hang
 * or take memory that its size does not warrant.
 */
#include "block/node.h"

#include <string.h>
#include "block/dirty_bitmap.h"
#include "block/request.h"
#include "tests/fuzz/lib/qcow2_input.h"
#include "util/range.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max,
                               unsigned seed);

#define SPAN (256 << 10)

static uint8_t buf[SPAN];

static void co_look(struct node *node, int64_t offset)
{
    int64_t bytes = min_i64(SPAN, node->length - offset);
    struct block_status status;

    (void)co_node_pread(node, offset, buf, bytes, 0);
    for (int64_t at = offset; at < offset + bytes; at += status.bytes) {
        if (co_node_block_status(node, true, at, offset + bytes - at, &status) <
            0) {
            break;
        }
        g_assert(status.bytes > 0);
    }
}

static void co_change(struct node *node, int64_t offset)
{
    uint8_t written[3000], seen[3000];
    int64_t bytes = min_i64(sizeof(written), node->length - offset);

    memset(written, 0x5a, sizeof(written));
    /* Two clusters of a damaged image may be one, so nothing is compared. */
    (void)co_node_pwrite(node, offset, written, bytes, 0);
    (void)co_node_pread(node, offset, seen, bytes, 0);
    (void)co_node_pwrite_zeroes(node, offset, min_i64(bytes, 1024),
                                REQ_MAY_UNMAP);
    (void)co_node_pdiscard(node, offset, bytes);
    (void)co_node_flush(node);
}

static void co_change_bitmaps(struct node *node)
{
    struct dirty_bitmap *b = LIST_FIRST(&node->bitmaps);

    if (b && co_dirty_bitmap_unstore(b, NULL)) {
        dirty_bitmap_free(b);
    }
    (void)co_dirty_bitmap_add(node, "new", 4096, true, false, NULL);
}

static void co_use(struct node *node)
{
    int64_t middle = node->length / 2;
    int64_t last = max_i64(0, node->length - SPAN);

    co_look(node, 0);
    co_look(node, middle);
    co_look(node, last);
    if (!node->read_only) {
        co_change(node, 0);
        co_change(node, middle);
        co_change(node, max_i64(0, node->length - 700));
        (void)co_node_truncate(node, align_down(middle, 512), false,
                               PREALLOC_MODE_OFF, 0, NULL);
        (void)co_node_truncate(node, align_up(middle + 70000, 512), false,
                               PREALLOC_MODE_OFF, 0, NULL);
    }
    if (!node->read_only) {
        co_change_bitmaps(node);
    }
    struct image_info_specific *info = node->driver->co_query_specific(node);
    image_info_specific_free(info);
}

static void co_one(struct qcow2_input *in)
{
    bool read_only = in->size && in->data[in->size - 1] & 1;
    struct node *node =
        co_qcow2_input_open(read_only ? QCOW2_INPUT_READ : QCOW2_INPUT_WRITE);

    if (node) {
        co_use(node);
        co_node_unref(node);
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max,
                               unsigned seed)
{
    return qcow2_mutate(data, size, max, seed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return qcow2_input_run(data, size, co_one);
}
