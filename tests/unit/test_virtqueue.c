/*
 * hw/virtio-blk: guest memory tables and the device's side of split rings.
 *
 * Guest memory is allocated to the byte, so that AddressSanitizer sees every
 * access outside of it.
 */
#include "hw/virtio-blk/virtqueue.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "aio/atomic.h"
#include "aio/iothread.h"
#include "aio/loop.h"
#include "aio/mailbox.h"
#include "hw/virtio-blk/guest_queue.h"
#include "hw/virtio-blk/virtio_defs.h"

#define SIZE 8

enum {
    LOW = 0x10000,   /* 16 KiB */
    HIGH = 0x14000,  /* 16 KiB behind it, somewhere else in the host */
    APART = 0x40000, /* 4 KiB */
    DESC = LOW,
    AVAIL = LOW + 0x1000,
    USED = LOW + 0x1800,
    TABLE = LOW + 0x2000,
    DATA = LOW + 0x3000,
};

struct slot {
    struct vq_chain chain;
};

struct fixture {
    struct guest_memory memory;
    struct guest_region regions[3];
    struct virtqueue vq;
    struct virtqueue_setup setup;
    struct vring_desc *desc, *table;
    struct vring_avail *avail;
    struct vring_used *used;
};

static int setup(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);

    f->regions[0] = (struct guest_region){HIGH, 0x4000, g_malloc0(0x4000)};
    f->regions[1] = (struct guest_region){LOW, 0x4000, g_malloc0(0x4000)};
    f->regions[2] = (struct guest_region){APART, 0x1000, g_malloc0(0x1000)};
    assert_true(guest_memory_set(&f->memory, f->regions, 3, NULL));
    uint8_t *low = f->regions[1].host;
    f->desc = (void *)low;
    f->avail = (void *)(low + (AVAIL - LOW));
    f->used = (void *)(low + (USED - LOW));
    f->table = (void *)(low + (TABLE - LOW));
    f->setup = (struct virtqueue_setup){
        .size = SIZE,
        .desc = DESC,
        .avail = AVAIL,
        .used = USED,
        .event_idx = true,
        .indirect = true,
    };
    virtqueue_init(&f->vq, 16, sizeof(struct slot));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    virtqueue_stop(&f->vq);
    virtqueue_destroy(&f->vq);
    guest_memory_clear(&f->memory);
    for (unsigned i = 0; i < 3; i++) {
        g_free(f->regions[i].host);
    }
    g_free(f);
    return 0;
}

static void start(struct fixture *f)
{
    assert_true(
        virtqueue_start(&f->vq, &split_ring_format, &f->memory, &f->setup));
}

static void set(struct vring_desc *d, uint64_t addr, uint32_t len,
                uint16_t flags, uint16_t next)
{
    *d = (struct vring_desc){addr, len, flags, next};
}

static void make_available(struct fixture *f, uint16_t head)
{
    uint16_t idx = f->avail->idx;

    f->avail->ring[idx % f->setup.size] = head;
    store_release_u16(&f->avail->idx, idx + 1);
}

/* ---- guest memory ---- */

static void addresses_outside_the_table_are_not_translated(void **state)
{
    struct fixture *f = *state;
    struct guest_memory *m = &f->memory;
    uint8_t *low = f->regions[1].host, *apart = f->regions[2].host;

    assert_ptr_equal(guest_memory_at(m, LOW, 1), low);
    assert_ptr_equal(guest_memory_at(m, LOW, 0x4000), low);
    assert_ptr_equal(guest_memory_at(m, APART + 0xfff, 1), apart + 0xfff);
    assert_null(guest_memory_at(m, LOW - 1, 1));
    assert_null(guest_memory_at(m, LOW - 1, 2));
    assert_null(guest_memory_at(m, 0, 1));
    assert_null(guest_memory_at(m, APART + 0x1000, 1));
    assert_null(guest_memory_at(m, APART + 0xfff, 2));
    assert_null(guest_memory_at(m, APART, UINT64_MAX));
    assert_null(guest_memory_at(m, UINT64_MAX, 1));
    /* In the table, but not in one piece. */
    assert_null(guest_memory_at(m, LOW, 0x4001));
    assert_null(guest_memory_at(m, LOW + 0x3fff, 2));
}

static void range_over_adjacent_regions_is_mapped_in_pieces(void **state)
{
    struct fixture *f = *state;
    struct iovec v[4];

    assert_int_equal(guest_memory_map(&f->memory, LOW + 0x3ff0, 0x30, v, 4), 2);
    assert_ptr_equal(v[0].iov_base, f->regions[1].host + 0x3ff0);
    assert_int_equal(v[0].iov_len, 0x10);
    assert_ptr_equal(v[1].iov_base, f->regions[0].host);
    assert_int_equal(v[1].iov_len, 0x20);
    assert_int_equal(guest_memory_map(&f->memory, LOW + 0x3ff0, 0x30, v, 1),
                     -E2BIG);
    assert_int_equal(guest_memory_map(&f->memory, HIGH, 0x4001, v, 4), -EFAULT);
    assert_int_equal(
        guest_memory_map(&f->memory, APART, UINT64_MAX - APART, v, 4), -EFAULT);

    uint8_t bytes[4];
    f->regions[1].host[0x3fff] = 7;
    f->regions[0].host[0] = 8;
    assert_int_equal(guest_memory_read(&f->memory, HIGH - 2, bytes, 4), 0);
    assert_int_equal(bytes[1], 7);
    assert_int_equal(bytes[2], 8);
    assert_int_equal(guest_memory_read(&f->memory, HIGH + 0x3ffe, bytes, 4),
                     -EFAULT);
}

static void bad_tables_are_refused_and_change_nothing(void **state)
{
    struct fixture *f = *state;
    static const struct guest_region bad[][2] = {
        {{0x1000, 0x1000, NULL}, {0x1fff, 0x1000, NULL}},
        {{0x1000, 0x1000, NULL}, {0x1000, 0x1000, NULL}},
        {{0x1000, 0, NULL}, {0x3000, 0x1000, NULL}},
        {{0x1000, 0x1000, NULL}, {UINT64_MAX - 0xffe, 0x1000, NULL}},
        {{0, UINT64_MAX, NULL}, {0x1000, 1, NULL}},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        assert_false(guest_memory_set(&f->memory, bad[i], 2, &error));
        assert_non_null(error);
        assert_non_null(guest_memory_at(&f->memory, LOW, 0x4000));
    }
    g_autofree struct guest_region *many =
        g_new0(struct guest_region, GUEST_MEMORY_MAX_REGIONS + 1);
    assert_false(
        guest_memory_set(&f->memory, many, GUEST_MEMORY_MAX_REGIONS + 1, NULL));
}

/* ---- chains ---- */

static struct vq_chain *pop_one(struct fixture *f)
{
    uint16_t head;

    assert_int_equal(virtqueue_pop(&f->vq, &head, 1), 1);
    return virtqueue_slot(&f->vq, head);
}

static void direct_chain_is_split_into_readable_and_writable(void **state)
{
    struct fixture *f = *state;

    start(f);
    set(&f->desc[3], DATA, 16, VRING_DESC_F_NEXT, 1);
    set(&f->desc[1], DATA + 64, 100, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 0);
    set(&f->desc[0], DATA + 32, 1, VRING_DESC_F_WRITE, 0);
    assert_false(virtqueue_has_work(&f->vq));
    make_available(f, 3);
    assert_true(virtqueue_has_work(&f->vq));

    struct vq_chain *c = pop_one(f);
    assert_int_equal(c->head, 3);
    assert_int_equal(c->readable, 1);
    assert_int_equal(c->writable, 2);
    assert_int_equal(c->readable_bytes, 16);
    assert_int_equal(c->writable_bytes, 101);
    assert_ptr_equal(c->vec[1].iov_base, f->regions[1].host + 0x3040);
    assert_false(virtqueue_has_work(&f->vq));
    assert_int_equal(f->vq.in_flight, 1);

    virtqueue_push(&f->vq, 3, 101);
    assert_int_equal(f->used->idx, 0); /* not before it is published */
    virtqueue_publish(&f->vq);
    assert_int_equal(f->used->idx, 1);
    assert_int_equal(f->used->ring[0].id, 3);
    assert_int_equal(f->used->ring[0].len, 101);
    assert_int_equal(f->vq.in_flight, 0);
}

static void indirect_table_continues_a_chain(void **state)
{
    struct fixture *f = *state;

    start(f);
    /* 2.6.5.3.2: ordinary descriptors may come before the table. WRITE on the
     * descriptor of a table means nothing. */
    set(&f->desc[2], DATA, 8, VRING_DESC_F_NEXT, 5);
    set(&f->desc[5], TABLE, 48, VRING_DESC_F_INDIRECT | VRING_DESC_F_WRITE, 0);
    set(&f->table[0], DATA + 8, 8, VRING_DESC_F_NEXT, 2);
    set(&f->table[2], DATA + 32, 32, VRING_DESC_F_WRITE, 0);
    make_available(f, 2);
    struct vq_chain *c = pop_one(f);
    assert_int_equal(c->readable, 2);
    assert_int_equal(c->readable_bytes, 16);
    assert_int_equal(c->writable, 1);
    assert_int_equal(c->writable_bytes, 32);
}

static void table_and_buffers_may_straddle_regions(void **state)
{
    struct fixture *f = *state;
    uint8_t *end = f->regions[1].host + 0x4000;
    struct vring_desc d[2];

    start(f);
    set(&d[0], HIGH - 8, 16, VRING_DESC_F_NEXT, 1);
    set(&d[1], HIGH - 4, 8, VRING_DESC_F_WRITE, 0);
    memcpy(end - 24, d, 24);
    memcpy(f->regions[0].host, (char *)d + 24, 8);
    set(&f->desc[0], HIGH - 24, 32, VRING_DESC_F_INDIRECT, 0);
    make_available(f, 0);
    struct vq_chain *c = pop_one(f);
    assert_int_equal(c->readable, 2);
    assert_int_equal(c->readable_bytes, 16);
    assert_int_equal(c->writable, 2);
    assert_int_equal(c->writable_bytes, 8);
    assert_ptr_equal(c->vec[3].iov_base, f->regions[0].host);
}

static void unaligned_indirect_table_is_read(void **state)
{
    struct fixture *f = *state;
    struct vring_desc d;

    start(f);
    set(&d, DATA, 16, VRING_DESC_F_WRITE, 0);
    memcpy((char *)f->table + 3, &d, sizeof(d));
    set(&f->desc[0], TABLE + 3, 16, VRING_DESC_F_INDIRECT, 0);
    make_available(f, 0);
    assert_int_equal(pop_one(f)->writable_bytes, 16);
}

static void long_chains_keep_all_their_pieces(void **state)
{
    struct fixture *f = *state;

    start(f);
    for (unsigned i = 0; i < SIZE; i++) {
        set(&f->desc[i], DATA + 16 * i, 8 + i,
            i + 1 < SIZE ? VRING_DESC_F_NEXT : 0, i + 1);
    }
    make_available(f, 0);
    struct vq_chain *c = pop_one(f);
    assert_int_equal(c->readable, SIZE);
    for (unsigned i = 0; i < SIZE; i++) {
        assert_ptr_equal(c->vec[i].iov_base,
                         f->regions[1].host + (DATA - LOW) + 16 * i);
        assert_int_equal(c->vec[i].iov_len, 8 + i);
    }
}

static void a_batch_is_popped_in_order_and_returned_in_any(void **state)
{
    struct fixture *f = *state;
    uint16_t heads[SIZE];

    start(f);
    for (unsigned lap = 0; lap < 70000 / SIZE; lap++) {
        for (unsigned i = 0; i < SIZE; i++) {
            set(&f->desc[i], DATA, 16, 0, 0);
            make_available(f, (i + lap) % SIZE);
        }
        assert_int_equal(virtqueue_pop(&f->vq, heads, 3), 3);
        assert_int_equal(virtqueue_pop(&f->vq, heads + 3, SIZE), SIZE - 3);
        assert_int_equal(virtqueue_pop(&f->vq, heads, 0), 0);
        for (unsigned i = 0; i < SIZE; i++) {
            assert_int_equal(heads[i], (i + lap) % SIZE);
        }
        for (unsigned i = SIZE; i-- > 0;) {
            virtqueue_push(&f->vq, heads[i], i);
        }
        virtqueue_publish(&f->vq);
        for (unsigned i = 0; i < SIZE; i++) {
            assert_int_equal(f->used->ring[i].id, heads[SIZE - 1 - i]);
        }
        assert_int_equal(f->used->idx, (uint16_t)((lap + 1) * SIZE));
    }
}

/* ---- violations ---- */

static void loop_in_chain(struct fixture *f)
{
    set(&f->desc[0], DATA, 8, VRING_DESC_F_NEXT, 1);
    set(&f->desc[1], DATA, 8, VRING_DESC_F_NEXT, 0);
    make_available(f, 0);
}

static void loop_to_itself(struct fixture *f)
{
    set(&f->desc[0], DATA, 8, VRING_DESC_F_NEXT, 0);
    make_available(f, 0);
}

static void loop_in_indirect_table(struct fixture *f)
{
    set(&f->desc[0], TABLE, 32, VRING_DESC_F_INDIRECT, 0);
    set(&f->table[0], DATA, 8, VRING_DESC_F_NEXT, 1);
    set(&f->table[1], DATA, 8, VRING_DESC_F_NEXT, 0);
    make_available(f, 0);
}

static void indirect_longer_than_queue(struct fixture *f)
{
    set(&f->desc[0], TABLE, 16 * (SIZE + 1), VRING_DESC_F_INDIRECT, 0);
    for (unsigned i = 0; i <= SIZE; i++) {
        set(&f->table[i], DATA, 8, i < SIZE ? VRING_DESC_F_NEXT : 0, i + 1);
    }
    make_available(f, 0);
}

static void head_beyond_ring(struct fixture *f)
{
    make_available(f, SIZE);
}

static void head_far_beyond_ring(struct fixture *f)
{
    make_available(f, 0xffff);
}

static void next_beyond_ring(struct fixture *f)
{
    set(&f->desc[0], DATA, 8, VRING_DESC_F_NEXT, SIZE);
    make_available(f, 0);
}

static void next_beyond_indirect_table(struct fixture *f)
{
    set(&f->desc[0], TABLE, 32, VRING_DESC_F_INDIRECT, 0);
    set(&f->table[0], DATA, 8, VRING_DESC_F_NEXT, 2);
    make_available(f, 0);
}

static void index_jumps(struct fixture *f)
{
    set(&f->desc[0], DATA, 8, 0, 0);
    f->avail->idx += SIZE + 1;
}

static void index_goes_back(struct fixture *f)
{
    f->avail->idx--;
}

static void head_twice_in_one_batch(struct fixture *f)
{
    set(&f->desc[0], DATA, 8, 0, 0);
    make_available(f, 0);
    make_available(f, 0);
}

static void buffer_outside_memory(struct fixture *f)
{
    set(&f->desc[0], 0xdead0000, 8, 0, 0);
    make_available(f, 0);
}

static void buffer_reaches_out_of_memory(struct fixture *f)
{
    set(&f->desc[0], APART + 0xff8, 9, 0, 0);
    make_available(f, 0);
}

static void buffer_wraps_around(struct fixture *f)
{
    set(&f->desc[0], UINT64_MAX - 3, 8, 0, 0);
    make_available(f, 0);
}

static void buffer_is_huge(struct fixture *f)
{
    set(&f->desc[0], LOW, UINT32_MAX, 0, 0);
    make_available(f, 0);
}

static void buffer_is_empty(struct fixture *f)
{
    set(&f->desc[0], DATA, 0, 0, 0);
    make_available(f, 0);
}

static void readable_after_writable(struct fixture *f)
{
    set(&f->desc[0], DATA, 8, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
    set(&f->desc[1], DATA, 8, 0, 0);
    make_available(f, 0);
}

static void indirect_in_indirect(struct fixture *f)
{
    set(&f->desc[0], TABLE, 16, VRING_DESC_F_INDIRECT, 0);
    set(&f->table[0], TABLE + 64, 16, VRING_DESC_F_INDIRECT, 0);
    set(&f->table[4], DATA, 8, 0, 0);
    make_available(f, 0);
}

static void indirect_to_itself(struct fixture *f)
{
    set(&f->desc[0], TABLE, 16, VRING_DESC_F_INDIRECT, 0);
    set(&f->table[0], TABLE, 16, VRING_DESC_F_INDIRECT, 0);
    make_available(f, 0);
}

static void indirect_with_next(struct fixture *f)
{
    set(&f->desc[0], TABLE, 16, VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT, 1);
    set(&f->table[0], DATA, 8, 0, 0);
    set(&f->desc[1], DATA, 8, 0, 0);
    make_available(f, 0);
}

static void indirect_of_odd_length(struct fixture *f)
{
    set(&f->desc[0], TABLE, 24, VRING_DESC_F_INDIRECT, 0);
    set(&f->table[0], DATA, 8, 0, 0);
    make_available(f, 0);
}

static void indirect_of_no_length(struct fixture *f)
{
    set(&f->desc[0], TABLE, 0, VRING_DESC_F_INDIRECT, 0);
    make_available(f, 0);
}

static void indirect_outside_memory(struct fixture *f)
{
    set(&f->desc[0], 0x7000000, 32, VRING_DESC_F_INDIRECT, 0);
    make_available(f, 0);
}

static void indirect_wraps_around(struct fixture *f)
{
    set(&f->desc[0], UINT64_MAX - 15, 32, VRING_DESC_F_INDIRECT, 0);
    make_available(f, 0);
}

static void indirect_end_outside_memory(struct fixture *f)
{
    set(&f->desc[0], APART + 0xff0, 32, VRING_DESC_F_INDIRECT, 0);
    set((struct vring_desc *)(f->regions[2].host + 0xff0), DATA, 8,
        VRING_DESC_F_NEXT, 1);
    make_available(f, 0);
}

static void good_chain_then_bad_one(struct fixture *f)
{
    set(&f->desc[4], DATA, 8, 0, 0);
    make_available(f, 4);
    loop_in_chain(f);
}

static const struct violation {
    const char *name;
    void (*prepare)(struct fixture *f);
} violations[] = {
    {"loop", loop_in_chain},
    {"loop to itself", loop_to_itself},
    {"loop in an indirect table", loop_in_indirect_table},
    {"indirect chain longer than the queue", indirect_longer_than_queue},
    {"head beyond the ring", head_beyond_ring},
    {"head far beyond the ring", head_far_beyond_ring},
    {"next beyond the ring", next_beyond_ring},
    {"next beyond the indirect table", next_beyond_indirect_table},
    {"available index jumps", index_jumps},
    {"available index goes back", index_goes_back},
    {"head twice in a batch", head_twice_in_one_batch},
    {"buffer outside memory", buffer_outside_memory},
    {"buffer reaches out of memory", buffer_reaches_out_of_memory},
    {"buffer wraps around", buffer_wraps_around},
    {"buffer of 4 GiB", buffer_is_huge},
    {"empty buffer", buffer_is_empty},
    {"readable after writable", readable_after_writable},
    {"indirect in indirect", indirect_in_indirect},
    {"indirect to itself", indirect_to_itself},
    {"indirect with next", indirect_with_next},
    {"indirect of odd length", indirect_of_odd_length},
    {"indirect of no length", indirect_of_no_length},
    {"indirect outside memory", indirect_outside_memory},
    {"indirect wraps around", indirect_wraps_around},
    {"indirect reaches out of memory", indirect_end_outside_memory},
    {"good chain, then a bad one", good_chain_then_bad_one},
};

static void every_violation_breaks_the_queue_and_touches_nothing(void **state)
{
    struct fixture *f = *state;
    uint16_t heads[SIZE];

    for (unsigned i = 0; i < G_N_ELEMENTS(violations); i++) {
        memset(f->regions[1].host, 0, 0x4000);
        start(f);
        violations[i].prepare(f);
        g_autofree uint8_t *before =
            g_memdup2(f->regions[1].host, f->regions[1].bytes);
        int n = virtqueue_pop(&f->vq, heads, SIZE);
        if (n != -EBADMSG || !f->vq.broken) {
            fail_msg("%s: popped %d", violations[i].name, n);
        }
        /* From now on it does nothing at all. */
        assert_int_equal(f->vq.in_flight, 0);
        assert_false(virtqueue_has_work(&f->vq));
        assert_int_equal(virtqueue_pop(&f->vq, heads, SIZE), -EBADMSG);
        assert_false(virtqueue_arm(&f->vq));
        virtqueue_disarm(&f->vq);
        assert_false(virtqueue_publish(&f->vq));
        assert_memory_equal(before, f->regions[1].host, f->regions[1].bytes);
        virtqueue_stop(&f->vq);
        assert_null(f->vq.broken);
    }
}

static void head_that_is_in_flight_cannot_come_again(void **state)
{
    struct fixture *f = *state;
    uint16_t heads[2];

    start(f);
    set(&f->desc[0], DATA, 8, 0, 0);
    set(&f->desc[1], DATA, 8, 0, 0);
    make_available(f, 0);
    pop_one(f);
    make_available(f, 1);
    make_available(f, 0);
    assert_int_equal(virtqueue_pop(&f->vq, heads, 2), -EBADMSG);
    /* The one in flight ends without a trace in the ring. */
    virtqueue_push(&f->vq, 0, 8);
    assert_false(virtqueue_publish(&f->vq));
    assert_int_equal(f->used->idx, 0);
    assert_int_equal(f->vq.in_flight, 0);
}

static void indirect_needs_negotiation(void **state)
{
    struct fixture *f = *state;
    uint16_t head;

    f->setup.indirect = false;
    start(f);
    set(&f->desc[0], TABLE, 16, VRING_DESC_F_INDIRECT, 0);
    set(&f->table[0], DATA, 8, 0, 0);
    make_available(f, 0);
    assert_int_equal(virtqueue_pop(&f->vq, &head, 1), -EBADMSG);
}

static void areas_must_lie_aligned_in_memory(void **state)
{
    struct fixture *f = *state;
    const struct virtqueue_setup good = f->setup;
    static const struct {
        uint64_t desc, avail, used;
        uint16_t size;
    } bad[] = {
        {DESC + 8, AVAIL, USED, SIZE},
        {DESC, AVAIL + 1, USED, SIZE},
        {DESC, AVAIL, USED + 2, SIZE},
        {0, AVAIL, USED, SIZE},
        {DESC, UINT64_MAX - 1, USED, SIZE},
        {DESC, AVAIL, 0xfffff000, SIZE},
        {APART + 0xff0, AVAIL, USED, SIZE},
        {DESC, APART + 0xff0, USED, SIZE},
        {DESC, AVAIL, APART + 0xff0, SIZE},
        {HIGH - 64, AVAIL, USED, SIZE},
        {DESC, AVAIL, USED, 0},
        {DESC, AVAIL, USED, 6},
        {DESC, AVAIL, USED, 32},
        {DESC, AVAIL, USED, 32768},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        f->setup = good;
        f->setup.desc = bad[i].desc;
        f->setup.avail = bad[i].avail;
        f->setup.used = bad[i].used;
        f->setup.size = bad[i].size;
        assert_false(
            virtqueue_start(&f->vq, &split_ring_format, &f->memory, &f->setup));
        assert_non_null(f->vq.broken);
        assert_false(virtqueue_has_work(&f->vq));
        virtqueue_stop(&f->vq);
    }
}

/* ---- notifications ---- */

static void event_index_says_when_to_interrupt(void **state)
{
    struct fixture *f = *state;
    uint16_t *used_event = &f->avail->ring[SIZE];
    uint16_t heads[4];

    start(f);
    for (unsigned i = 0; i < 4; i++) {
        set(&f->desc[i], DATA, 8, 0, 0);
        make_available(f, i);
    }
    assert_int_equal(virtqueue_pop(&f->vq, heads, 4), 4);
    *used_event = 2; /* when the third one is there */
    virtqueue_push(&f->vq, 0, 0);
    virtqueue_push(&f->vq, 1, 0);
    assert_false(virtqueue_publish(&f->vq));
    virtqueue_push(&f->vq, 2, 0);
    assert_true(virtqueue_publish(&f->vq));
    virtqueue_push(&f->vq, 3, 0);
    assert_false(virtqueue_publish(&f->vq));
    assert_false(virtqueue_publish(&f->vq)); /* nothing new */
}

static void without_event_index_the_flag_says_so(void **state)
{
    struct fixture *f = *state;

    f->setup.event_idx = false;
    start(f);
    for (unsigned i = 0; i < 2; i++) {
        set(&f->desc[0], DATA, 8, 0, 0);
        make_available(f, 0);
        pop_one(f);
        f->avail->flags = i ? VRING_AVAIL_F_NO_INTERRUPT : 0;
        virtqueue_push(&f->vq, 0, 0);
        assert_int_equal(virtqueue_publish(&f->vq), !i);
    }
    virtqueue_disarm(&f->vq);
    assert_int_equal(f->used->flags, VRING_USED_F_NO_NOTIFY);
    assert_false(virtqueue_arm(&f->vq));
    assert_int_equal(f->used->flags, 0);
    make_available(f, 0);
    assert_true(virtqueue_arm(&f->vq));
}

static void arming_asks_for_the_next_chain_and_looks_again(void **state)
{
    struct fixture *f = *state;
    uint16_t *avail_event = (uint16_t *)&f->used->ring[SIZE];

    start(f);
    for (unsigned i = 0; i < 5; i++) {
        set(&f->desc[0], DATA, 8, 0, 0);
        make_available(f, 0);
        assert_true(virtqueue_arm(&f->vq)); /* there is one already */
        pop_one(f);
        assert_false(virtqueue_arm(&f->vq));
        assert_int_equal(*avail_event, i + 1);
        virtqueue_disarm(&f->vq);
        virtqueue_push(&f->vq, 0, 0);
        virtqueue_publish(&f->vq);
    }
}

/* ---- two threads ---- */

/* The device sleeps only between arm and a kick, the driver only between
 * switching interrupts on and an interrupt: a lost notification is a hang,
 * which the deadline turns into a failure. */
struct stress {
    struct guest_memory memory;
    struct virtqueue vq;
    struct guest_queue driver;
    struct loop *driver_loop, *device_loop;
    struct mail kick, interrupt;
    uint16_t kick_posted, interrupt_posted; /* one mail each at a time */
    uint64_t submitted, completed, goal;
    unsigned round;
};

static void on_done(struct guest_slot *slot, void *opaque)
{
    struct stress *s = opaque;

    assert_int_equal(slot->control->status, slot->extra);
    s->completed++;
    guest_queue_put(slot);
}

static void driver_work(struct stress *s);

static void device_work(void *opaque)
{
    struct stress *s = opaque;
    uint16_t heads[16];

    store_release_u16(&s->kick_posted, 0);
    memory_barrier();
    virtqueue_disarm(&s->vq);
    do {
        int n;
        while ((n = virtqueue_pop(&s->vq, heads, 7)) > 0) {
            for (int i = 0; i < n; i++) {
                struct vq_chain *c = virtqueue_slot(&s->vq, heads[i]);
                struct virtio_blk_header *h = c->vec[0].iov_base;
                uint8_t *status =
                    c->vec[c->readable + c->writable - 1].iov_base;
                *status = h->sector & 0x7f;
                virtqueue_push(&s->vq, heads[i], 1);
            }
            if (virtqueue_publish(&s->vq)) {
                if (!load_acquire_u16(&s->interrupt_posted)) {
                    store_release_u16(&s->interrupt_posted, 1);
                    loop_post(s->driver_loop, &s->interrupt);
                }
            }
        }
        assert_int_equal(n, 0);
    } while (virtqueue_arm(&s->vq));
}

static void on_interrupt(void *opaque)
{
    struct stress *s = opaque;

    store_release_u16(&s->interrupt_posted, 0);
    memory_barrier();
    driver_work(s);
}

static void driver_work(struct stress *s)
{
    struct guest_slot *slot;

    guest_queue_interrupts_off(&s->driver);
    do {
        guest_queue_reap(&s->driver);
        unsigned burst = 1 + s->round++ % 5;
        while (burst-- && s->submitted < s->goal &&
               (slot = guest_queue_get(&s->driver))) {
            slot->done = on_done;
            slot->opaque = s;
            slot->extra = s->submitted & 0x7f;
            guest_queue_add(slot, VIRTIO_BLK_T_FLUSH, s->submitted++, 0, 1);
        }
        if (guest_queue_show(&s->driver) &&
            !load_acquire_u16(&s->kick_posted)) {
            store_release_u16(&s->kick_posted, 1);
            loop_post(s->device_loop, &s->kick);
        }
    } while (guest_queue_interrupts_on(&s->driver));
}

static void stress(bool event_idx, bool indirect)
{
    struct stress s = {.goal = 200000};
    uint16_t size = 16;
    uint64_t bytes = guest_queue_bytes(size);
    uint8_t *ram = aligned_alloc(4096, bytes);
    struct guest_region r = {0x100000, bytes, ram};
    struct iothread *t = iothread_new("device");

    memset(ram, 0, 65536);
    s.driver_loop = loop_new("driver", LOOP_CLOCK_REAL);
    s.device_loop = iothread_loop(t);
    s.kick = (struct mail){.fn = device_work, .opaque = &s};
    s.interrupt = (struct mail){.fn = on_interrupt, .opaque = &s};
    assert_true(guest_memory_set(&s.memory, &r, 1, NULL));
    guest_queue_init(&s.driver, size, ram, r.gpa, event_idx, indirect);
    virtqueue_init(&s.vq, size, sizeof(struct slot));
    struct virtqueue_setup setup = {
        .size = size,
        .desc = s.driver.desc_gpa,
        .avail = s.driver.avail_gpa,
        .used = s.driver.used_gpa,
        .event_idx = event_idx,
        .indirect = indirect,
    };
    assert_true(virtqueue_start(&s.vq, &split_ring_format, &s.memory, &setup));
    driver_work(&s);
    int64_t deadline = loop_now_ns(s.driver_loop) + 60 * INT64_C(1000000000);
    while (s.completed < s.goal && loop_now_ns(s.driver_loop) < deadline) {
        loop_pass(s.driver_loop, false);
    }
    assert_int_equal(s.completed, s.goal);
    assert_int_equal(s.driver.violations, 0);
    /* Mail on its way has to arrive before its loop goes. */
    while (load_acquire_u16(&s.kick_posted)) {
        loop_pass(s.driver_loop, false);
    }
    iothread_free(t);
    while (loop_pass(s.driver_loop, false)) {
    }
    loop_free(s.driver_loop);
    virtqueue_stop(&s.vq);
    virtqueue_destroy(&s.vq);
    guest_queue_destroy(&s.driver);
    guest_memory_clear(&s.memory);
    free(ram);
}

static void no_notification_is_lost_between_two_threads(void **state)
{
    stress(true, true);
    stress(false, true);
    stress(true, false);
}

/* ---- mostly valid chains, some of them spoilt ---- */

static uint64_t rng_state;

static uint32_t rnd(uint32_t limit)
{
    rng_state = rng_state * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (uint32_t)(rng_state >> 33) % limit;
}

static void random_chain(struct fixture *f, uint16_t head)
{
    unsigned n = 1 + rnd(3);
    bool indirect = rnd(2);
    struct vring_desc *d = indirect ? f->table : f->desc;
    unsigned at = indirect ? 0 : head;

    if (indirect) {
        set(&f->desc[head], TABLE, n * 16, VRING_DESC_F_INDIRECT, 0);
    }
    for (unsigned i = 0; i < n; i++) {
        unsigned next = (at + 1) % SIZE;
        bool write = i >= n / 2;
        set(&d[at], DATA + rnd(0x800), 1 + rnd(0x1400),
            (write ? VRING_DESC_F_WRITE : 0) |
                (i + 1 < n ? VRING_DESC_F_NEXT : 0),
            next);
        at = next;
    }
    if (!rnd(40)) {
        /* A word of the rings or tables changes. */
        uint8_t *low = f->regions[1].host;
        unsigned offset = (rnd(3) == 0 ? 0
                           : rnd(2)    ? TABLE - LOW
                                       : AVAIL - LOW);
        low[offset + rnd(160)] ^= 1 << rnd(8);
    }
}

static void random_chains_never_reach_outside_guest_memory(void **state)
{
    struct fixture *f = *state;
    unsigned broken = 0, good = 0;
    uint16_t heads[SIZE];

    rng_state = 42;
    start(f);
    for (unsigned round = 0; round < 60000; round++) {
        random_chain(f, rnd(SIZE));
        make_available(f, rnd(SIZE));
        int n = virtqueue_pop(&f->vq, heads, SIZE);
        for (int i = 0; i < n; i++) {
            struct vq_chain *c = virtqueue_slot(&f->vq, heads[i]);
            struct iov r = vq_chain_readable(c), w = vq_chain_writable(c);
            /* AddressSanitizer judges. */
            iov_is_zero(&r);
            if (rnd(2)) {
                iov_set(&w, 0, 0x55, MIN(w.bytes, 16));
            }
            virtqueue_push(&f->vq, heads[i], w.bytes);
            good++;
        }
        virtqueue_publish(&f->vq);
        if (n < 0) {
            broken++;
            virtqueue_stop(&f->vq);
            memset(f->regions[1].host, 0, 0x2000);
            start(f);
        }
    }
    assert_true(good > 10000);
    assert_true(broken > 500);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(addresses_outside_the_table_are_not_translated),
        CASE(range_over_adjacent_regions_is_mapped_in_pieces),
        CASE(bad_tables_are_refused_and_change_nothing),
        CASE(direct_chain_is_split_into_readable_and_writable),
        CASE(indirect_table_continues_a_chain),
        CASE(table_and_buffers_may_straddle_regions),
        CASE(unaligned_indirect_table_is_read),
        CASE(long_chains_keep_all_their_pieces),
        CASE(a_batch_is_popped_in_order_and_returned_in_any),
        CASE(every_violation_breaks_the_queue_and_touches_nothing),
        CASE(head_that_is_in_flight_cannot_come_again),
        CASE(indirect_needs_negotiation),
        CASE(areas_must_lie_aligned_in_memory),
        CASE(event_index_says_when_to_interrupt),
        CASE(without_event_index_the_flag_says_so),
        CASE(arming_asks_for_the_next_chain_and_looks_again),
        cmocka_unit_test(no_notification_is_lost_between_two_threads),
        CASE(random_chains_never_reach_outside_guest_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
