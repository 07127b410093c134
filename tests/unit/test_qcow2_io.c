/* qcow2: data, against a model of bytes, and against qemu-img. */
#include "block/node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>

#include "block/node_int.h"
#include "block/request.h"
#include "lib/fake_driver.h"
#include "lib/mem_disk.h"
#include "qapi/options.h"

static char *dir;

static int enter_directory(void **state)
{
    dir = g_dir_make_tmp("varve-qcow2-XXXXXX", NULL);
    return dir ? g_chdir(dir) : -1;
}

static int leave_directory(void **state)
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

static struct node *co_open(const char *format, ...) G_GNUC_PRINTF(1, 2);
static struct node *co_open(const char *format, ...)
{
    GError *error = NULL;
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    qapi_auto(blockdev_options) o = qapi_blockdev_options_parse(text, &error);
    struct node *node = o ? co_node_open(o, &error) : NULL;
    if (!node) {
        fail_msg("%s: %s", text, error->message);
    }
    return node;
}

/* An image in the memory disk `file`. */
static void co_make(const char *file, int64_t size, const char *more)
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

static void co_check(struct node *file, bool leaks_allowed)
{
    mem_disk_save(file, "image.qcow2");
    assert_image_clean("image.qcow2", leaks_allowed);
}

/* ---- random requests against a model ------------------------------------- */

struct stress {
    struct node *node;
    struct node *file;
    uint8_t *model;     /* what a read must give */
    int64_t size, unit; /* requests begin and end at multiples of unit */
    uint8_t *busy;      /* units that a request in flight may change */
    GRand *rand;
    unsigned left;    /* requests to start */
    bool failures;    /* requests may fail: then their range is unknown */
    uint8_t *unknown; /* units */
    bool small;
};

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

static void co_verify(struct stress *t, int64_t offset, int64_t bytes)
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
}

static int co_random_write(struct stress *t, int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    uint8_t seed = g_rand_int(t->rand);

    for (int64_t i = 0; i < bytes; i++) {
        buf[i] = seed + i * 7;
    }
    int ret = co_node_pwrite(t->node, offset, buf, bytes, 0);
    memcpy(t->model + offset, buf, bytes);
    return ret;
}

static void co_random_request(struct stress *t)
{
    int64_t units = t->size / t->unit;
    int64_t at = g_rand_int_range(t->rand, 0, units);
    int64_t n = g_rand_int_range(t->rand, 1, t->small ? 4 : 200);
    unsigned what = g_rand_int_range(t->rand, 0, 20);
    int ret = 0;

    n = MIN(n, units - at);
    int64_t offset = at * t->unit, bytes = n * t->unit;
    if (what == 0) {
        (void)co_node_flush(t->node);
        return;
    }
    if (!claim(t, offset, bytes)) {
        return;
    }
    if (what < 6) {
        co_verify(t, offset, bytes);
    } else if (what < 16) {
        ret = co_random_write(t, offset, bytes);
    } else if (what < 18) {
        ret = co_node_pwrite_zeroes(t->node, offset, bytes,
                                    what & 1 ? REQ_MAY_UNMAP : 0);
        memset(t->model + offset, 0, bytes);
    } else {
        ret = co_node_pdiscard(t->node, offset, bytes);
        /* What is not whole clusters is left alone; what it does is learnt. */
        g_autofree uint8_t *buf = g_malloc(bytes);
        if (ret == 0) {
            assert_int_equal(co_node_pread(t->node, offset, buf, bytes, 0), 0);
            for (int64_t i = 0; i < bytes; i++) {
                if (buf[i] != t->model[offset + i] &&
                    !t->unknown[(offset + i) / t->unit]) {
                    assert_int_equal(buf[i], 0);
                }
            }
            memcpy(t->model + offset, buf, bytes);
        }
    }
    assert_true(ret == 0 || t->failures);
    memset(t->unknown + at, ret != 0, ret != 0 || what >= 6 ? n : 0);
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

static void co_stress(struct stress *t, unsigned requests, unsigned depth)
{
    struct co_pool pool = {.limit = depth};

    t->left = requests;
    for (unsigned i = 0; i < depth; i++) {
        co_pool_start(&pool, co_stress_worker, t);
    }
    co_pool_wait(&pool);
}

static void stress_init(struct stress *t, struct node *file, struct node *node,
                        unsigned seed)
{
    *t = (struct stress){
        .node = node, .file = file, .size = node->length, .unit = 512};
    t->model = g_malloc0(t->size);
    t->busy = g_malloc0(t->size / t->unit);
    t->unknown = g_malloc0(t->size / t->unit);
    t->rand = g_rand_new_with_seed(seed);
}

static void stress_free(struct stress *t)
{
    g_free(t->model);
    g_free(t->busy);
    g_free(t->unknown);
    g_rand_free(t->rand);
}

static const struct shape {
    const char *create, *open;
    int64_t size;
} shapes[] = {
    {"'cluster-size': 512", "", 1 << 20},
    {"'cluster-size': 512, 'refcount-bits': 64", "", 1 << 20},
    {"'cluster-size': 4096, 'refcount-bits': 1", "", 4 << 20},
    {"'cluster-size': 4096, 'refcount-bits': 4", ",l2-cache-size=0", 4 << 20},
    {"'cluster-size': 65536", "", 16 << 20},
    {"'cluster-size': 65536, 'version': 'v2'", "", 16 << 20},
    {"'cluster-size': 65536, 'preallocation': 'metadata'", "", 8 << 20},
    {"'cluster-size': 2097152", "", 32 << 20},
    {"'cluster-size': 1024, 'refcount-bits': 8",
     ",l2-cache-entry-size=512,cache-size=4096", (1 << 20) + 512},
};

static void co_random_shape(const struct shape *shape, unsigned seed)
{
    struct node *file = co_mem_disk("disk");
    struct stress t;

    mem_disk_of(file)->pauses = 3;
    mem_disk_of(file)->rng = seed;
    co_make("disk", shape->size, shape->create);
    struct node *node = co_open("driver=qcow2,node-name=q,file=disk,"
                                "discard=unmap%s",
                                shape->open);
    assert_int_equal(node->length, shape->size);
    stress_init(&t, file, node, seed);
    for (unsigned round = 0; round < 4; round++) {
        t.small = round & 1;
        co_stress(&t, 300, 16);
        co_verify(&t, 0, t.size);
        co_node_unref(t.node);
        co_check(file, false);
        t.node = co_open("driver=qcow2,file=disk,discard=unmap%s", shape->open);
        co_verify(&t, 0, t.size);
    }
    co_node_unref(t.node);
    stress_free(&t);
    co_node_unref(file);
}

static void co_every_shape(void *opaque)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        co_random_shape(&shapes[i], i + 1);
    }
}

static void random_requests_match_the_model(void **state)
{
    in_fake_loop(co_every_shape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_requests_match_the_model),
    };
    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
