/* qcow2: rewriting the header area. */
#include "block/node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <endian.h>
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "block/drivers/qcow2/qcow2.h"
#include "lib/fake_driver.h"
#include "lib/qcow2_image.h"

#define UNKNOWN 0x77777777u
#define OTHER   0x66666666u
#define ANOTHER "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"null-co\"}}"
#define FURTHER 24 /* bytes of fields that nobody knows */

/* What a test wants of the header. */
struct wish {
    uint32_t type;
    const void *data;
    uint32_t bytes;
    const char *backing; /* NULL: as it is */
    uint64_t autoclear;
};

static void apply(struct header_area *h, void *opaque)
{
    const struct wish *w = opaque;

    if (w->type) {
        header_area_set(h, w->type, w->data, w->bytes);
    }
    if (w->backing) {
        g_free(h->backing_file);
        h->backing_file = *w->backing ? g_strdup(w->backing) : NULL;
    }
    h->fields.autoclear = w->autoclear;
}

static void co_edit(struct node *node, struct wish w)
{
    GError *error = NULL;

    assert_true(co_qcow2_edit_header(node->state, apply, &w, &error));
    assert_null(error);
}

static struct node *co_open_disk(void)
{
    return co_open("driver=qcow2,file=disk,backing=base");
}

static void co_assert_extension(struct node *node, uint32_t type,
                                const void *data, uint32_t bytes)
{
    const struct header_extension *e = qcow2_extension(node->state, type);

    if (!data) {
        assert_null(e);
        return;
    }
    assert_non_null(e);
    assert_int_equal(e->bytes, bytes);
    assert_memory_equal(e->data, data, bytes);
}

/* Fields behind the known ones, as a later version may have them; everything
 * else moves up. */
static void add_further_fields(struct node *file)
{
    uint8_t *d = mem_disk_of(file)->data;
    uint64_t name;
    uint32_t length = htobe32(112 + FURTHER);

    memcpy(&name, d + 8, 8);
    memmove(d + 112 + FURTHER, d + 112, 1200);
    memset(d + 112, 0xf7, FURTHER);
    memcpy(d + 100, &length, 4);
    name = htobe64(be64toh(name) + FURTHER);
    memcpy(d + 8, &name, 8);
}

static struct node *co_image(const char *more)
{
    struct node *file = co_mem_disk("disk");
    g_autofree char *backing = g_strdup_printf(
        "'backing-file': 'base.raw', 'backing-fmt': 'raw'%s", more);

    co_make("disk", 1 << 20, backing);
    return file;
}

static void co_keeps(void *opaque)
{
    struct node *base = co_open("driver=null-co,size=1M,node-name=base");
    struct node *file = co_image("");

    add_further_fields(file);
    struct node *node = co_open_disk();
    uint8_t further[FURTHER];
    memset(further, 0xf7, FURTHER);

    co_edit(node,
            (struct wish){.type = UNKNOWN, .data = "seven b", .bytes = 7});
    co_edit(node, (struct wish){.type = OTHER,
                                .data = "twenty-four bytes here.",
                                .bytes = 24});
    co_edit(node, (struct wish){.backing = ANOTHER});
    for (unsigned i = 0; i < 2; i++) {
        co_assert_extension(node, UNKNOWN, "seven b", 7);
        co_assert_extension(node, OTHER, "twenty-four bytes here.", 24);
        co_assert_extension(node, QCOW2_EXT_BACKING_FORMAT, "raw", 3);
        assert_string_equal(node->backing_filename, ANOTHER);
        assert_memory_equal(mem_disk_of(file)->data + 112, further, FURTHER);
        co_node_unref(node);
        co_check(file, false);
        node = co_open_disk();
    }
    co_edit(node, (struct wish){.type = OTHER});
    co_assert_extension(node, OTHER, NULL, 0);
    co_assert_extension(node, UNKNOWN, "seven b", 7);
    co_node_unref(node);
    co_node_unref(file);
    co_node_unref(base);
}

static void what_is_unknown_comes_through_every_rewrite(void **state)
{
    in_fake_loop(co_keeps);
}

/* ---- crashes ------------------------------------------------------------- */

/* The states of the disk between the writes: each write is cut after every
 * sector. */
static void co_states(struct node *disk, struct node *now,
                      const uint8_t *before, GArray *log)
{
    uint8_t *image = g_memdup2(before, 65536);
    unsigned states = 0;

    for (unsigned i = 0; i <= log->len; i++) {
        const struct mem_event *e =
            i < log->len ? &g_array_index(log, struct mem_event, i) : NULL;
        for (int64_t n = 0; n < (e && e->data ? e->bytes : 1); n += 512) {
            memcpy(mem_disk_of(now)->data, image, 65536);
            if (e && e->data) {
                memcpy(mem_disk_of(now)->data + e->offset, e->data, n);
            }
            struct node *node = co_open("driver=qcow2,file=now,backing=base,"
                                        "read-only=on");
            bool fresh = !strcmp(node->backing_filename, "new name");
            assert_true(fresh || !strcmp(node->backing_filename, "base.raw"));
            co_assert_extension(node, QCOW2_EXT_BACKING_FORMAT, "raw", 3);
            co_assert_extension(node, UNKNOWN, fresh ? "new" : "old", 3);
            states += fresh ? 1 : 0x10000;
            co_node_unref(node);
        }
        if (e && e->data) {
            memcpy(image + e->offset, e->data, e->bytes);
        }
    }
    assert_true(states & 0xffff && states >> 16 > 1);
    g_free(image);
}

static void co_cut(void *opaque)
{
    struct node *base = co_open("driver=null-co,size=1M,node-name=base");
    struct node *file = co_image("");
    struct node *now = co_mem_disk("now");

    struct node *node = co_open_disk();
    co_edit(node, (struct wish){.type = UNKNOWN, .data = "old", .bytes = 3});
    assert_int_equal(
        co_node_pwrite(now, 0, mem_disk_of(file)->data, file->length, 0), 0);
    g_autofree uint8_t *before = g_memdup2(mem_disk_of(file)->data, 65536);
    mem_disk_record(file);
    co_edit(node, (struct wish){.type = UNKNOWN,
                                .data = "new",
                                .bytes = 3,
                                .backing = "new name"});
    GArray *log = mem_disk_of(file)->log;
    co_states(file, now, before, log);
    co_node_unref(node);
    co_node_unref(now);
    co_node_unref(file);
    co_node_unref(base);
}

static void a_cut_rewrite_leaves_the_old_header_or_the_new_one(void **state)
{
    in_fake_loop(co_cut);
}

/* ---- a name that is not there -------------------------------------------- */

/* Without an offset there is no backing name, whatever its size. */
static void co_size_without_name(void *opaque)
{
    struct node *file = co_mem_disk("disk");
    uint8_t data[700] = {1};

    co_make("disk", 1 << 20, "'cluster-size': 4096");
    put_be(file, 16, 4, 4096);
    struct node *node = co_open("driver=qcow2,file=disk");
    co_edit(node, (struct wish){
                      .type = UNKNOWN, .data = data, .bytes = sizeof(data)});
    co_node_unref(node);
    assert_int_equal(get_be(file, 16, 4), 0);
    node = co_open("driver=qcow2,file=disk");
    co_assert_extension(node, UNKNOWN, data, sizeof(data));
    co_node_unref(node);
    co_check(file, false);
    co_node_unref(file);
}

static void the_size_of_no_backing_name_does_not_matter(void **state)
{
    in_fake_loop(co_size_without_name);
}

/* ---- another backing file ------------------------------------------------ */

/* What was copied into the image is there when the new name is. */
static void co_name_last(void *opaque)
{
    struct node *base = co_open("driver=null-co,size=1M,node-name=base");
    struct node *file = co_image("");
    struct node *now = co_mem_disk("now");
    struct node *node = co_open_disk();
    uint8_t data[512] = {7}, seen[512];

    assert_int_equal(co_node_pwrite(node, 0, data, 512, 0), 0);
    assert_true(co_node_change_backing(node, "other.raw", "raw", NULL));
    /* As if it was killed. */
    assert_int_equal(
        co_node_pwrite(now, 0, mem_disk_of(file)->data, file->length, 0), 0);
    struct node *left = co_open("driver=qcow2,file=now,backing=base,"
                                "read-only=on");
    assert_string_equal(left->backing_filename, "other.raw");
    assert_int_equal(co_node_pread(left, 0, seen, 512, 0), 0);
    assert_memory_equal(seen, data, 512);
    co_node_unref(left);
    co_node_unref(now);
    co_node_unref(node);
    co_node_unref(file);
    co_node_unref(base);
}

static void a_new_backing_name_comes_after_the_data(void **state)
{
    in_fake_loop(co_name_last);
}

/* ---- no room ------------------------------------------------------------- */

static void co_full(void *opaque)
{
    struct node *base = co_open("driver=null-co,size=1M,node-name=base");
    struct node *file = co_image(", 'cluster-size': 512");
    struct node *node = co_open_disk();
    struct wish w = {.type = UNKNOWN, .bytes = 400};
    uint8_t data[400] = {1};
    GError *error = NULL;

    w.data = data;
    assert_false(co_qcow2_edit_header(node->state, apply, &w, &error));
    assert_string_equal(error->message, "Could not update qcow2 header: No "
                                        "space left on device");
    g_clear_error(&error);
    co_assert_extension(node, UNKNOWN, NULL, 0);
    w.bytes = 300;
    co_edit(node, w);
    co_node_unref(node);
    node = co_open_disk();
    co_assert_extension(node, UNKNOWN, data, 300);
    assert_string_equal(node->backing_filename, "base.raw");
    co_node_unref(node);
    co_node_unref(file);
    co_node_unref(base);
}

static void what_does_not_fit_changes_nothing(void **state)
{
    in_fake_loop(co_full);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_unknown_comes_through_every_rewrite),
        cmocka_unit_test(a_cut_rewrite_leaves_the_old_header_or_the_new_one),
        cmocka_unit_test(the_size_of_no_backing_name_does_not_matter),
        cmocka_unit_test(a_new_backing_name_comes_after_the_data),
        cmocka_unit_test(what_does_not_fit_changes_nothing),
    };

    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
