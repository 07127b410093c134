/*
 * Block status of a layer and through a chain.
 */
#include "block/request.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "tests/unit/lib/ram_node.h"
#include "util/range.h"

#define LENGTH (INT64_C(1) << 20)
#define UNIT   (INT64_C(64) << 10)
#define ABSENT 0
#define STORED (BLOCK_DATA | BLOCK_ALLOCATED)
#define HOLE   (BLOCK_ZERO | BLOCK_ALLOCATED)

static struct ram_node *ram;
static struct block_status s;

static void set_up(void)
{
    ram = ram_node_new("ram", LENGTH);
}

static int64_t asked_offset, asked_bytes;

/* Knows whole blocks of 4 KiB, and answers for all of them. */
static int co_coarse(struct node *node, bool want_zero, int64_t offset,
                     int64_t bytes, struct block_status *status)
{
    asked_offset = offset;
    asked_bytes = bytes;
    *status = (struct block_status){
        .flags = BLOCK_DATA | BLOCK_OFFSET_VALID,
        .bytes = bytes + 8192, /* more than asked for is allowed */
        .map = offset + LENGTH,
        .file = node,
    };
    return 0;
}

static void co_cut(void)
{
    set_up();
    ram->node.limits.request_alignment = 4096;
    ram->driver.co_block_status = co_coarse;
    assert_int_equal(co_node_block_status(&ram->node, true, 5000, 100, &s), 0);
    assert_int_equal(asked_offset, 4096);
    assert_int_equal(asked_bytes, 4096);
    assert_int_equal(s.bytes, 100);
    assert_int_equal(s.map, LENGTH + 5000);
    assert_int_equal(s.flags, STORED | BLOCK_OFFSET_VALID);
    /* To the end of the node. */
    ram->node.length = 10000;
    assert_int_equal(co_node_block_status(&ram->node, true, 9000, LENGTH, &s),
                     0);
    assert_int_equal(s.bytes, 1000);
    assert_int_equal(s.flags, STORED | BLOCK_OFFSET_VALID | BLOCK_EOF);
    ram_node_free(ram);
}

static void an_answer_is_cut_to_the_question(void **state)
{
    ram_run(co_cut);
}

static void co_beyond(void)
{
    set_up();
    assert_int_equal(co_node_block_status(&ram->node, true, LENGTH, 512, &s),
                     0);
    assert_int_equal(s.flags, BLOCK_ZERO | BLOCK_EOF);
    assert_int_equal(s.bytes, 512);
    assert_int_equal(co_node_block_status(&ram->node, true, -1, 512, &s), -EIO);
    assert_int_equal(co_node_block_status(&ram->node, true, 0, -1, &s), -EIO);
    ram->fail_at[RAM_STATUS] = 1;
    assert_int_equal(co_node_block_status(&ram->node, true, 0, 512, &s), -EIO);
    assert_int_equal(ram->node.in_flight, 0);
    ram_node_free(ram);
}

static void beyond_the_end_are_zeroes(void **state)
{
    ram_run(co_beyond);
}

static void co_defaults(void)
{
    set_up();
    struct ram_node *filter = ram_node_above("filter", DRIVER_FILTER, ram);
    struct ram_node *format = ram_node_above("format", DRIVER_FORMAT, ram);

    ram->driver.co_block_status = NULL;
    assert_int_equal(co_node_block_status(&ram->node, true, 512, 512, &s), 0);
    assert_int_equal(s.flags, STORED | BLOCK_OFFSET_VALID);
    assert_int_equal(s.map, 512);
    assert_ptr_equal(s.file, &ram->node);
    s = (struct block_status){0};
    assert_int_equal(co_node_block_status(&filter->node, true, 512, 512, &s),
                     0);
    assert_int_equal(s.map, 512);
    assert_ptr_equal(s.file, &ram->node);
    assert_int_equal(co_node_block_status(&format->node, true, 0, LENGTH, &s),
                     0);
    assert_int_equal(s.flags, STORED | BLOCK_EOF);
    ram_node_free(filter);
    ram_node_free(format);
    ram_node_free(ram);
}

static void a_driver_need_not_have_the_function(void **state)
{
    ram_run(co_defaults);
}

/* Above a file with a hole: what the format's driver says is in its knob. */
static void co_recurse(void)
{
    set_up();
    struct ram_node *format = ram_node_above("format", DRIVER_FORMAT, ram);
    format->driver.co_block_status = ram->driver.co_block_status;
    ram->status = (struct block_status){.flags = BLOCK_ZERO, .bytes = 4096};
    format->status = (struct block_status){
        .flags = BLOCK_DATA | BLOCK_OFFSET_VALID | BLOCK_RECURSE,
        .bytes = 65536,
        .map = 512,
        .file = &ram->node,
    };
    /* Refined by the file, but the mapping stays its own. */
    assert_int_equal(co_node_block_status(&format->node, true, 0, 65536, &s),
                     0);
    assert_int_equal(s.flags, STORED | BLOCK_ZERO | BLOCK_OFFSET_VALID);
    assert_int_equal(s.bytes, 4096);
    assert_int_equal(s.map, 512);
    assert_int_equal(ram->last_offset[RAM_STATUS], 512);
    /* Not when a quick answer will do; and an error below does not matter. */
    assert_int_equal(co_node_block_status(&format->node, false, 0, 65536, &s),
                     0);
    assert_int_equal(s.flags, STORED | BLOCK_OFFSET_VALID);
    assert_int_equal(ram->calls[RAM_STATUS], 1);
    ram->fail_at[RAM_STATUS] = 1;
    assert_int_equal(co_node_block_status(&format->node, true, 0, 65536, &s),
                     0);
    assert_int_equal(s.bytes, 65536);
    /* Alone it is the file's answer. */
    format->status.flags = BLOCK_OFFSET_VALID | BLOCK_RECURSE;
    assert_int_equal(co_node_block_status(&format->node, false, 0, 65536, &s),
                     0);
    assert_int_equal(s.flags, HOLE);
    assert_int_equal(s.bytes, 4096);
    ram->fail_at[RAM_STATUS] = 1;
    assert_int_equal(co_node_block_status(&format->node, false, 0, 65536, &s),
                     -EIO);
    ram_node_free(format);
    ram_node_free(ram);
}

static void recursion_asks_the_storage(void **state)
{
    ram_run(co_recurse);
}

/* ---- chains ---- */

/* Layers whose units are listed in a string: '.' absent, 'd' data, 'z' zero. */
struct layer {
    struct ram_node *ram;
    const char *units;
};

static struct layer layers[4];

static int co_layer_status(struct node *node, bool want_zero, int64_t offset,
                           int64_t bytes, struct block_status *status)
{
    struct layer *l = layers;

    while (&l->ram->node != node) {
        l++;
    }
    char unit = l->units[offset / UNIT];
    *status = (struct block_status){
        .flags = unit == 'd'   ? BLOCK_DATA
                 : unit == 'z' ? BLOCK_ZERO
                               : ABSENT,
        .bytes = min_i64(bytes, UNIT - offset % UNIT),
    };
    return 0;
}

static void add_layer(unsigned i, const char *units)
{
    layers[i].units = units;
    layers[i].ram = ram_node_new(units, strlen(units) * UNIT);
    layers[i].ram->driver.kind = DRIVER_FORMAT;
    layers[i].ram->driver.supports_backing = true;
    layers[i].ram->driver.co_block_status = co_layer_status;
    if (i) {
        ram_node_set_backing(layers[i - 1].ram, layers[i].ram);
    }
}

static void free_layers(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        ram_node_free(layers[i].ram);
    }
}

/* Flags and depth at a unit, and that the run ends with it. */
static void check(struct ram_node *base, bool include, unsigned unit,
                  unsigned flags, int depth)
{
    int got;

    assert_int_equal(co_node_status_above(&layers[0].ram->node,
                                          base ? &base->node : NULL, include,
                                          true, unit * UNIT, UNIT, &s, &got),
                     0);
    assert_int_equal(s.flags & ~BLOCK_EOF, flags);
    assert_int_equal(s.bytes, UNIT);
    assert_int_equal(got, depth);
}

static void co_above(void)
{
    add_layer(0, "d.z.....");
    add_layer(1, ".d.d....");
    add_layer(2, "zzzzz.");
    struct ram_node *mid = layers[1].ram, *low = layers[2].ram;

    check(NULL, false, 0, STORED, 1);
    check(NULL, false, 1, STORED, 2);
    check(NULL, false, 2, HOLE, 1);
    check(NULL, false, 4, HOLE, 3);
    check(NULL, false, 5, BLOCK_ZERO, 0);
    /* The lowest is shorter: from its end on it stands for zeroes. */
    check(NULL, false, 6, HOLE, 3);
    check(low, false, 4, ABSENT, 0);
    check(low, true, 4, HOLE, 3);
    check(mid, false, 1, ABSENT, 0);
    check(mid, true, 1, STORED, 2);
    check(layers[0].ram, false, 0, ABSENT, 0);
    free_layers(3);
}

static void a_chain_is_asked_layer_by_layer(void **state)
{
    ram_run(co_above);
}

static void co_short_middle(void)
{
    add_layer(0, "....");
    add_layer(1, "..");
    add_layer(2, "dddd");
    check(NULL, false, 1, STORED, 3);
    /* Not the data of the longer layer behind the short one. */
    check(NULL, false, 2, BLOCK_ZERO | BLOCK_ALLOCATED, 2);
    free_layers(3);
}

static void a_short_layer_hides_a_longer_one(void **state)
{
    ram_run(co_short_middle);
}

static void co_runs(void)
{
    add_layer(0, "....");
    add_layer(1, "....");
    /* A run may not go on where a lower layer's answer ends. */
    layers[0].ram->driver.co_block_status =
        layers[1].ram->driver.co_block_status;
    assert_int_equal(co_node_status_above(&layers[0].ram->node, NULL, false,
                                          true, UNIT + 512, 4 * UNIT, &s, NULL),
                     0);
    assert_int_equal(s.bytes, UNIT - 512);
    assert_int_equal(s.flags, BLOCK_ZERO);
    assert_int_equal(co_node_status_above(&layers[0].ram->node, NULL, false,
                                          true, 3 * UNIT, UNIT, &s, NULL),
                     0);
    assert_int_equal(s.flags, BLOCK_ZERO | BLOCK_EOF);
    free_layers(2);
}

static void a_run_is_as_long_as_all_agree(void **state)
{
    ram_run(co_runs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_is_cut_to_the_question),
        cmocka_unit_test(beyond_the_end_are_zeroes),
        cmocka_unit_test(a_driver_need_not_have_the_function),
        cmocka_unit_test(recursion_asks_the_storage),
        cmocka_unit_test(a_chain_is_asked_layer_by_layer),
        cmocka_unit_test(a_short_layer_hides_a_longer_one),
        cmocka_unit_test(a_run_is_as_long_as_all_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
