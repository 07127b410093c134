/*
 * A qcow2 image of any content: opened, read, asked for its status, and, if it
 * opens for writing, changed. Nothing that it says may lead out of bounds, hang
 * or take memory that its size does not warrant.
 */
#include "block/node.h"

#include <string.h>
#include "aio/loop.h"
#include "block/dirty_bitmap.h"
#include "block/request.h"
#include "qapi/options.h"
#include "tests/unit/lib/mem_disk.h"
#include "util/range.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SPAN (256 << 10)

struct input {
    const uint8_t *data;
    size_t size;
};

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

static void co_one(void *opaque)
{
    const struct input *in = opaque;
    struct node *disk = co_mem_disk("disk");
    bool read_only = in->size && in->data[in->size - 1] & 1;

    memcpy(mem_disk_of(disk)->data, in->data, in->size);
    disk->length = in->size;
    g_autofree char *text =
        g_strdup_printf("{'driver': 'qcow2', 'file': 'disk', 'backing': null, "
                        "'discard': 'unmap', 'read-only': %s}",
                        read_only ? "true" : "false");
    qapi_auto(blockdev_options) options =
        qapi_blockdev_options_parse(text, NULL);
    struct node *node = co_node_open(options, NULL);
    if (node) {
        co_use(node);
        co_node_unref(node);
    }
    co_node_unref(disk);
}

static void silent(const gchar *domain, GLogLevelFlags level,
                   const gchar *message, gpointer opaque)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, MIN(size, 1 << 20)};

    g_log_set_default_handler(silent, NULL);
    struct loop *loop = loop_new("fuzz", LOOP_CLOCK_SIMULATED);
    loop_run_co(loop, co_one, &in);
    while (loop_pass(loop, false)) {
    }
    loop_free(loop);
    return 0;
}
