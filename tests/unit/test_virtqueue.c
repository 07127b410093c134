/*
 * hw/virtio-blk: guest memory tables and the device's side of split rings.
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
#include "lib/ring.h"

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

/* A Linux guest sends as many segments as seg_max says, however small the ring
 * is that its machine has. */
static void indirect_chain_may_be_longer_than_the_ring(void **state)
{
    struct fixture *f = *state;

    start(f);
    for (unsigned i = 0; i < MAX_SIZE; i++) {
        set(&f->table[i], DATA + i, 1 + i,
            i + 1 < MAX_SIZE ? VRING_DESC_F_NEXT : 0, i + 1);
    }
    set(&f->desc[0], TABLE, MAX_SIZE * 16, VRING_DESC_F_INDIRECT, 0);
    make_available(f, 0);
    struct vq_chain *c = pop_one(f);
    assert_int_equal(c->readable, MAX_SIZE);
    assert_int_equal(c->vec[MAX_SIZE - 1].iov_len, MAX_SIZE);
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

static void stress(uint16_t size, bool packed, bool event_idx, bool indirect)
{
    struct stress s = {.goal = 200000};
    uint64_t features = (packed ? VIRTIO_BIT(VIRTIO_F_RING_PACKED) : 0) |
                        (event_idx ? VIRTIO_BIT(VIRTIO_F_EVENT_IDX) : 0) |
                        (indirect ? VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC) : 0);
    const struct ring_format *format =
        packed ? &packed_ring_format : &split_ring_format;
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
    guest_queue_init(&s.driver, size, ram, r.gpa, features);
    virtqueue_init(&s.vq, 16, sizeof(struct slot));
    struct virtqueue_setup setup = {
        .size = size,
        .desc = s.driver.desc_gpa,
        .avail = s.driver.avail_gpa,
        .used = s.driver.used_gpa,
        .event_idx = event_idx,
        .indirect = indirect,
        .avail_idx = format->first,
        .used_idx = format->first,
    };
    assert_true(virtqueue_start(&s.vq, format, &s.memory, &setup));
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
    stress(16, false, true, true);
    stress(16, false, false, true);
    stress(16, false, true, false);
    stress(16, true, true, true);
    stress(13, true, false, true);
    stress(13, true, true, false);
}

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
        CASE(indirect_chain_may_be_longer_than_the_ring),
        CASE(a_batch_is_popped_in_order_and_returned_in_any),
        CASE(event_index_says_when_to_interrupt),
        CASE(without_event_index_the_flag_says_so),
        CASE(arming_asks_for_the_next_chain_and_looks_again),
        cmocka_unit_test(no_notification_is_lost_between_two_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
