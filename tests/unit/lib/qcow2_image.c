/*
 * The helpers of qcow2_image.h.
 */
#include "qcow2_image.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <endian.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>

#include "block/request.h"
#include "qapi/options.h"
#include "util/range.h"

static char *dir;

int enter_directory(void **state)
{
    dir = g_dir_make_tmp("varve-qcow2-XXXXXX", NULL);
    return dir ? g_chdir(dir) : -1;
}

int leave_directory(void **state)
{
    GDir *d = g_dir_open(".", 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(d))) {
        g_unlink(name);
    }
    g_dir_close(d);
    int ret = g_chdir("/");
    g_rmdir(dir);
    g_free(dir);
    return ret;
}

static struct node *co_open_text(const char *text, GError **error)
{
    qapi_auto(blockdev_options) o = qapi_blockdev_options_parse(text, error);

    return o ? co_node_open(o, error) : NULL;
}

struct node *co_try_open(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    return co_open_text(text, error);
}

struct node *co_open(const char *format, ...)
{
    GError *error = NULL;
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    struct node *node = co_open_text(text, &error);
    if (!node) {
        fail_msg("%s: %s", text, error->message);
    }
    return node;
}

/* An image in the memory disk `file`. */
void co_make(const char *file, int64_t size, const char *more)
{
    GError *error = NULL;
    g_autofree char *text = g_strdup_printf(
        "{'driver': 'qcow2', 'file': '%s', 'size': %" G_GINT64_FORMAT "%s%s}",
        file, size, *more ? ", " : "", more);
    qapi_auto(blockdev_create_options) o = qapi_options_parse(
        &qapi_type_blockdev_create_options, text, NULL, &error);

    if (!o || !block_driver_find("qcow2")->co_create(o, &error)) {
        fail_msg("%s", error->message);
    }
}

void put_be(struct node *file, int64_t offset, unsigned bytes, uint64_t value)
{
    uint64_t be = htobe64(value);

    memcpy(mem_disk_of(file)->data + offset, (char *)&be + 8 - bytes, bytes);
}

uint64_t get_be(struct node *file, int64_t offset, unsigned bytes)
{
    uint64_t be = 0;

    memcpy((char *)&be + 8 - bytes, mem_disk_of(file)->data + offset, bytes);
    return be64toh(be);
}

void co_check(struct node *file, bool leaks_allowed)
{
    mem_disk_save(file, "image.qcow2");
    assert_image_clean("image.qcow2", leaks_allowed);
}

/* ---- random requests against a model ------------------------------------- */

static bool claim(struct stress *t, int64_t offset, int64_t bytes)
{
    for (int64_t u = offset / t->unit; u < (offset + bytes) / t->unit; u++) {
        if (t->busy[u]) {
            return false;
        }
    }
    memset(t->busy + offset / t->unit, 1, bytes / t->unit);
    return true;
}

static void release(struct stress *t, int64_t offset, int64_t bytes)
{
    memset(t->busy + offset / t->unit, 0, bytes / t->unit);
}

/* What is written to a unit begins with its number. */
static void stamp(const struct stress *t, int64_t offset, int64_t bytes,
                  uint8_t *buf)
{
    for (int64_t at = 0; at < bytes; at += t->unit) {
        uint32_t unit = (offset + at) / t->unit + 1;
        memcpy(buf + at, &unit, sizeof(unit));
    }
}

/* Zeroes, or what was once written here. */
static bool belongs_here(const struct stress *t, int64_t offset,
                         const uint8_t *buf)
{
    uint32_t unit = offset / t->unit + 1;

    return (!buf[0] && !memcmp(buf, buf + 1, t->unit - 1)) ||
           !memcmp(buf, &unit, sizeof(unit));
}

void co_verify(struct stress *t, int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    memset(buf, 0xee, bytes);
    assert_int_equal(co_node_pread(t->node, offset, buf, bytes, 0), 0);
    for (int64_t i = 0; i < bytes; i++) {
        if (buf[i] != t->model[offset + i] &&
            !t->unknown[(offset + i) / t->unit]) {
            fail_msg("byte %" G_GINT64_FORMAT " is %02x, not %02x", offset + i,
                     buf[i], t->model[offset + i]);
        }
    }
    for (int64_t i = 0; i < bytes; i += t->unit) {
        if (t->unknown[(offset + i) / t->unit] &&
            !belongs_here(t, offset + i, buf + i)) {
            fail_msg("at byte %" G_GINT64_FORMAT " are another one's data",
                     offset + i);
        }
    }
}

static int co_random_write(struct stress *t, int64_t offset, int64_t bytes,
                           unsigned flags)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    uint8_t seed = g_rand_int(t->rand);

    bool noise = t->cluster && seed % 4 == 0;
    for (int64_t i = 0; i < bytes; i++) {
        buf[i] = noise ? g_rand_int(t->rand) : seed + i * 7;
    }
    stamp(t, offset, bytes, buf);
    int ret = co_node_pwrite(t->node, offset, buf, bytes, flags);
    memcpy(t->model + offset, buf, bytes);
    return ret;
}

/* Of a discard, what is not whole clusters is left alone: each byte is what it
 * was, or zero. */
static void co_learn_discarded(struct stress *t, int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    assert_int_equal(co_node_pread(t->node, offset, buf, bytes, 0), 0);
    for (int64_t i = 0; i < bytes; i++) {
        if (buf[i] != t->model[offset + i] &&
            !t->unknown[(offset + i) / t->unit]) {
            assert_int_equal(buf[i], 0);
        }
    }
    memcpy(t->model + offset, buf, bytes);
}

/* Widens the request to clusters, but not over the end. */
static void to_clusters(const struct stress *t, int64_t *offset, int64_t *bytes)
{
    int64_t end = align_up(*offset + *bytes, t->cluster);

    *offset = align_down(*offset, t->cluster);
    *bytes = MIN(end, t->size) - *offset;
}

static void co_random_request(struct stress *t)
{
    unsigned flags = 0;
    int64_t units = t->size / t->unit;
    int64_t at = g_rand_int_range(t->rand, 0, units);
    int64_t n = g_rand_int_range(t->rand, 1, t->small ? 4 : 200);
    unsigned what = g_rand_int_range(t->rand, 0, 20);
    int ret = 0;

    n = MIN(n, units - at);
    int64_t offset = at * t->unit, bytes = n * t->unit;
    if (what == 0 && t->no_flush) {
        return;
    }
    if (what == 0) {
        (void)co_node_flush(t->node);
        return;
    }
    if (what >= 6 && what < 16 && t->cluster && g_rand_boolean(t->rand)) {
        to_clusters(t, &offset, &bytes);
        flags = REQ_COMPRESSED;
    }
    if (!claim(t, offset, bytes)) {
        return;
    }
    if (what < 6) {
        co_verify(t, offset, bytes);
    } else if (what < 16) {
        ret = co_random_write(t, offset, bytes, flags);
    } else if (what < 18) {
        ret = co_node_pwrite_zeroes(t->node, offset, bytes,
                                    what & 1 ? REQ_MAY_UNMAP : 0);
        memset(t->model + offset, 0, bytes);
    } else {
        ret = co_node_pdiscard(t->node, offset, bytes);
        if (ret == 0) {
            co_learn_discarded(t, offset, bytes);
        }
    }
    if (ret && !t->failures) {
        fail_msg("request of kind %u for %" G_GINT64_FORMAT
                 " bytes at %" G_GINT64_FORMAT ": %s",
                 what, bytes, offset, g_strerror(-ret));
    }
    t->failed += ret != 0;
    if (what >= 6) {
        memset(t->touched + offset / t->unit, 1, bytes / t->unit);
        memset(t->unknown + offset / t->unit, ret != 0, bytes / t->unit);
    }
    release(t, offset, bytes);
}

static int co_stress_worker(void *opaque)
{
    struct stress *t = opaque;

    while (t->left) {
        t->left--;
        co_random_request(t);
    }
    return 0;
}

void co_stress(struct stress *t, unsigned requests, unsigned depth)
{
    struct co_pool pool = {.limit = depth};

    t->left = requests;
    for (unsigned i = 0; i < depth; i++) {
        co_pool_start(&pool, co_stress_worker, t);
    }
    co_pool_wait(&pool);
}

void stress_init(struct stress *t, struct node *node, unsigned seed)
{
    *t = (struct stress){.node = node, .size = node->length, .unit = 512};
    t->model = g_malloc0(t->size);
    t->busy = g_malloc0(t->size / t->unit);
    t->unknown = g_malloc0(t->size / t->unit);
    t->touched = g_malloc0(t->size / t->unit);
    t->rand = g_rand_new_with_seed(seed);
}

void stress_free(struct stress *t)
{
    g_free(t->model);
    g_free(t->busy);
    g_free(t->unknown);
    g_free(t->touched);
    g_rand_free(t->rand);
}

/* ---- images of many kinds ------------------------------------------------ */

static struct node *co_open_shape(const struct shape *shape)
{
    return co_open("driver=qcow2,file=disk,discard=unmap%s", shape->open);
}

static struct node *co_stress_begin(struct stress *t, const struct shape *shape,
                                    unsigned seed)
{
    struct node *file = co_mem_disk("disk");

    mem_disk_of(file)->pauses = 3;
    mem_disk_of(file)->rng = seed;
    co_make("disk", shape->size, shape->create);
    stress_init(t, co_open_shape(shape), seed);
    assert_int_equal(t->size, shape->size);
    t->cluster = shape->cluster;
    return file;
}

static void co_reopen(struct stress *t, const struct shape *shape,
                      struct node *file)
{
    co_node_unref(t->node);
    co_check(file, false);
    t->node = co_open_shape(shape);
    co_verify(t, 0, t->size);
}

static void co_stress_end(struct stress *t, struct node *file)
{
    co_node_unref(t->node);
    stress_free(t);
    co_node_unref(file);
}

void co_stress_shape(const struct shape *shape, unsigned seed,
                     unsigned requests)
{
    struct stress t;
    struct node *file = co_stress_begin(&t, shape, seed);

    for (unsigned round = 0; round < 4; round++) {
        t.small = round & 1;
        co_stress(&t, requests, 16);
        co_verify(&t, 0, t.size);
        co_reopen(&t, shape, file);
    }
    co_stress_end(&t, file);
}

void co_stress_failures(const struct shape *shape, unsigned seed,
                        unsigned requests)
{
    struct stress t;
    struct node *file = co_stress_begin(&t, shape, seed);
    struct mem_disk *d = mem_disk_of(file);

    t.failures = true;
    for (unsigned round = 0; round < 6; round++) {
        d->fail_one_in = round & 1 ? 3 : 20;
        d->fail_errno = round & 2 ? ENOSPC : EIO;
        t.small = round & 1;
        co_stress(&t, requests, 16);
        d->fail_one_in = 0;
        co_verify(&t, 0, t.size);
        co_stress(&t, requests / 4, 4);
    }
    assert_true(t.failed > 0);
    assert_int_equal(co_node_flush(t.node), 0);
    co_reopen(&t, shape, file);
    co_stress_end(&t, file);
}
