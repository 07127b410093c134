/*
 * A qcow2 image of any content, and a script of what users do to one: requests,
 * snapshots, bitmaps, amends, resizes.
 *
 * An image that a check finds clean is clean afterwards. Where a step failed,
 * clusters may have leaked; where the image turned out to be corrupt, which a
 * check need not see (a table that is guest data as well, rightly counted
 * twice), nothing is known.
 */
#include "block/node.h"

#include <string.h>
#include "block/dirty_bitmap.h"
#include "block/driver.h"
#include "block/request.h"
#include "block/snapshot.h"
#include "tests/fuzz/lib/qcow2_input.h"
#include "util/iov.h"
#include "util/range.h"

enum { MAX_STEPS = 12, MAX_BYTES = 20000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max,
                               unsigned seed);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max,
                               unsigned seed)
{
    return qcow2_mutate(data, size, max, seed);
}

static uint8_t buf[MAX_BYTES];

struct range {
    int64_t offset, bytes;
};

/* Within the disk: at its start, its end, or somewhere. */
static struct range range(struct qcow2_input *in, struct node *node)
{
    uint8_t where = qcow2_input_u8(in), bytes = qcow2_input_u8(in);
    struct range r = {.bytes = bytes & 1 ? 512 * (bytes / 2) : bytes * 37};

    r.bytes = min_i64(min_i64(r.bytes, MAX_BYTES), node->length);
    r.offset = where & 1 ? (where / 2) * INT64_C(1024)
                         : node->length / 128 * (where / 2);
    r.offset = min_i64(r.offset, node->length - r.bytes);
    return r;
}

static int co_write(struct qcow2_input *in, struct node *node)
{
    struct range r = range(in, node);

    memset(buf, 0x5a, sizeof(buf));
    return co_node_pwrite(node, r.offset, buf, r.bytes, 0);
}

static int co_write_compressed(struct qcow2_input *in, struct node *node)
{
    struct range r = range(in, node);
    struct node_info info;

    if (co_node_get_info(node, &info) < 0 || info.cluster_size > MAX_BYTES) {
        return 0;
    }
    r.offset = align_down(r.offset, info.cluster_size);
    r.bytes = min_i64(info.cluster_size, node->length - r.offset);
    return co_node_pwrite(node, r.offset, buf, r.bytes, REQ_COMPRESSED);
}

static int co_write_zeroes(struct qcow2_input *in, struct node *node)
{
    struct range r = range(in, node);

    return co_node_pwrite_zeroes(node, r.offset, r.bytes, REQ_MAY_UNMAP);
}

static int co_discard(struct qcow2_input *in, struct node *node)
{
    struct range r = range(in, node);

    return co_node_pdiscard(node, r.offset, r.bytes * 8);
}

static int co_flush(struct qcow2_input *in, struct node *node)
{
    return co_node_flush(node);
}

static int co_resize(struct qcow2_input *in, struct node *node)
{
    uint8_t how = qcow2_input_u8(in);
    int64_t size =
        how & 1 ? node->length + 512 * how : node->length / 256 * how;

    return co_node_truncate(
               node, align_down(size, 512), false,
               how & 2 ? PREALLOC_MODE_METADATA : PREALLOC_MODE_OFF, 0, NULL)
               ? 0
               : -EIO;
}

static int co_snapshot_create(struct qcow2_input *in, struct node *node)
{
    char name[] = {'a' + qcow2_input_u8(in) % 3, 0};
    struct snapshot_info info = {.name = name, .has_icount = true};

    return co_node_snapshot_create(node, &info);
}

/* The id of some snapshot; NULL if there is none. */
static char *snapshot_id(struct qcow2_input *in, struct node *node)
{
    struct snapshot_info_list *list = node_snapshots(node);
    uint8_t i = qcow2_input_u8(in);
    char *id = list && list->n ? g_strdup(list->items[i % list->n]->id) : NULL;

    snapshot_info_list_free(list);
    return id;
}

static int co_snapshot_apply(struct qcow2_input *in, struct node *node)
{
    g_autofree char *id = snapshot_id(in, node);

    return !id || co_node_snapshot_apply(node, id, NULL) ? 0 : -EIO;
}

static int co_snapshot_delete(struct qcow2_input *in, struct node *node)
{
    g_autofree char *id = snapshot_id(in, node);

    return !id || co_node_snapshot_delete(node, id, NULL, NULL) ? 0 : -EIO;
}

static int co_bitmap_add(struct qcow2_input *in, struct node *node)
{
    uint8_t how = qcow2_input_u8(in);
    char name[] = {'k' + how % 3, 0};

    return co_dirty_bitmap_add(node, name, 512 << how % 9, true, how & 64, NULL)
               ? 0
               : -EIO;
}

static int co_bitmap_remove(struct qcow2_input *in, struct node *node)
{
    struct dirty_bitmap *b = LIST_FIRST(&node->bitmaps);

    return !b || co_dirty_bitmap_remove(b, NULL) ? 0 : -EIO;
}

static int co_amend(struct qcow2_input *in, struct node *node)
{
    static const char *const texts[] = {
        "compat=0.10",        "compat=1.1",
        "refcount_bits=1",    "refcount_bits=2",
        "refcount_bits=8",    "refcount_bits=16",
        "refcount_bits=64",   "lazy_refcounts=on",
        "lazy_refcounts=off", "backing_file=b.qcow2,backing_fmt=qcow2",
        "backing_file=",      "compat=1.1,refcount_bits=32,size=5M"};
    struct amend_request request = {
        .text = texts[qcow2_input_u8(in) % G_N_ELEMENTS(texts)]};

    return node->driver->co_amend(node, &request, NULL) ? 0 : -EIO;
}

static int co_vmstate(struct qcow2_input *in, struct node *node)
{
    struct iovec storage;
    struct iov iov = iov_buf(&storage, buf, qcow2_input_u8(in) * 40);

    return co_node_save_vmstate(node, qcow2_input_u8(in) * 700, &iov);
}

static int co_empty(struct qcow2_input *in, struct node *node)
{
    return co_node_make_empty(node);
}

typedef int co_step_fn(struct qcow2_input *in, struct node *node);

static co_step_fn *const steps[] = {
    co_write,           co_write_compressed,
    co_write_zeroes,    co_discard,
    co_flush,           co_resize,
    co_snapshot_create, co_snapshot_apply,
    co_snapshot_delete, co_bitmap_add,
    co_bitmap_remove,   co_amend,
    co_vmstate,         co_empty,
    co_write,
};

/* Carries the script out; false if a step failed. */
static bool co_carry_out(struct qcow2_input *in)
{
    struct node *node = co_qcow2_input_open(QCOW2_INPUT_WRITE);
    bool ok = true;

    for (unsigned i = 0; node && in->script_left && i < MAX_STEPS; i++) {
        uint8_t what = qcow2_input_u8(in);
        if (what >= 0xf0) {
            co_node_unref(node);
            node = co_qcow2_input_open(QCOW2_INPUT_WRITE);
        } else if (steps[what % G_N_ELEMENTS(steps)](in, node) < 0) {
            ok = false;
        }
    }
    if (node) {
        ok = ok && !node->unusable;
        co_node_unref(node);
    }
    return ok && node;
}

static void co_one(struct qcow2_input *in)
{
    struct check_report before, after;
    bool clean =
        co_qcow2_input_check("", &before) && !before.errors && !before.leaks;

    if (co_carry_out(in) && clean) {
        g_assert(co_qcow2_input_check("", &after));
        g_assert(!after.errors && !after.leaks);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return qcow2_input_run(data, size, co_one);
}
