/*
 * hw/virtio-blk: the device's side of packed rings.
 */
#include "lib/ring.h"

#include <string.h>

/* A descriptor's flags as the driver finds them. */
static uint16_t flags_at(struct fixture *f, unsigned i)
{
    return load_acquire_u16(&f->ring[i].flags);
}

/* ---- positions ---- */

static uint16_t position(unsigned count, unsigned size)
{
    return count % size | (count / size % 2 ? 0 : VRING_PACKED_WRAP);
}

static void positions_count_descriptors_and_laps(void **state)
{
    for (unsigned size = 1; size < 9; size++) {
        for (unsigned from = 0; from < 2 * size; from++) {
            for (unsigned n = 0; n <= size; n++) {
                assert_int_equal(
                    vring_packed_advance(position(from, size), n, size),
                    position(from + n, size));
            }
        }
    }
    uint16_t last = (VRING_PACKED_MAX_SIZE - 1) | VRING_PACKED_WRAP;

    assert_int_equal(vring_packed_advance(last, 1, VRING_PACKED_MAX_SIZE), 0);
    assert_int_equal(vring_packed_advance(last - 1, 1, VRING_PACKED_MAX_SIZE),
                     last);
}

static void event_is_due_when_its_position_is_passed(void **state)
{
    for (unsigned size = 1; size < 9; size++) {
        for (unsigned old = 0; old < 2 * size; old++) {
            for (unsigned n = 1; n <= size; n++) {
                for (unsigned e = 0; e < size; e++) {
                    uint16_t from = position(old, size),
                             to = position(old + n, size);
                    uint16_t event = position(old + e, size);

                    assert_int_equal(vring_packed_need_event(
                                         VRING_EVENT(VRING_EVENT_DESC, event),
                                         to, from, size),
                                     e < n);
                    assert_false(vring_packed_need_event(
                        VRING_EVENT(VRING_EVENT_DISABLE, event), to, from,
                        size));
                    assert_true(vring_packed_need_event(
                        VRING_EVENT(VRING_EVENT_ENABLE, event), to, from,
                        size));
                }
            }
        }
    }
}

/* ---- chains ---- */

static void chain_has_the_id_of_its_last_descriptor(void **state)
{
    struct fixture *f = *state;

    start(f);
    assert_false(virtqueue_has_work(&f->vq));
    put(f, DATA, 16, VRING_DESC_F_NEXT, 7);
    put(f, DATA + 64, 100, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 6);
    put(f, DATA + 32, 1, VRING_DESC_F_WRITE, 5);
    assert_true(virtqueue_has_work(&f->vq));
    struct vq_chain *c = pop_one(f);

    assert_int_equal(c->head, 5);
    assert_int_equal(c->readable, 1);
    assert_int_equal(c->writable, 2);
    assert_int_equal(c->readable_bytes, 16);
    assert_int_equal(c->writable_bytes, 101);
    assert_ptr_equal(c->vec[1].iov_base, f->regions[1].host + 0x3040);
    assert_false(virtqueue_has_work(&f->vq));

    virtqueue_push(&f->vq, 5, 101);
    virtqueue_publish(&f->vq);
    assert_int_equal(f->ring[0].id, 5);
    assert_int_equal(f->ring[0].len, 101);
    assert_int_equal(flags_at(f, 0), vring_packed_used(VRING_PACKED_FIRST) |
                                         VRING_DESC_F_WRITE);
    assert_int_equal(f->vq.used_idx, VRING_PACKED_FIRST + 3);
    assert_int_equal(f->vq.descs_in_flight, 0);
}

static void indirect_table_is_a_whole_chain(void **state)
{
    struct fixture *f = *state;

    start(f);
    /* In a table only WRITE counts; WRITE of the table itself does not. */
    set_packed(&f->packed_table[0], DATA, 8, VRING_DESC_F_NEXT);
    set_packed(&f->packed_table[1], DATA + 8, 8, VRING_PACKED_F_USED);
    set_packed(&f->packed_table[2], DATA + 32, 32, VRING_DESC_F_WRITE);
    put(f, TABLE, 48, VRING_DESC_F_INDIRECT | VRING_DESC_F_WRITE, 3);
    put(f, TABLE, 16, VRING_DESC_F_INDIRECT, 2);
    struct vq_chain *c = pop_one(f);

    assert_int_equal(c->head, 3);
    assert_int_equal(c->readable, 2);
    assert_int_equal(c->readable_bytes, 16);
    assert_int_equal(c->writable_bytes, 32);
    c = pop_one(f);
    assert_int_equal(c->head, 2);
    assert_int_equal(c->readable_bytes, 8);
    assert_int_equal(f->vq.descs_in_flight, 2);
}

static void indirect_table_may_be_longer_than_the_ring(void **state)
{
    struct fixture *f = *state;

    f->setup.size = 1;
    start(f);
    for (unsigned i = 0; i < MAX_SIZE; i++) {
        set_packed(&f->packed_table[i], DATA + i, 1 + i, 0);
    }
    put(f, TABLE, MAX_SIZE * 16, VRING_DESC_F_INDIRECT, 0);
    struct vq_chain *c = pop_one(f);
    assert_int_equal(c->readable, MAX_SIZE);
    assert_int_equal(c->vec[MAX_SIZE - 1].iov_len, MAX_SIZE);
}

static void table_and_buffers_may_straddle_regions(void **state)
{
    struct fixture *f = *state;
    uint8_t *end = f->regions[1].host + 0x4000;
    struct vring_packed_desc d[2];

    start(f);
    set_packed(&d[0], HIGH - 8, 16, 0);
    set_packed(&d[1], HIGH - 4, 8, VRING_DESC_F_WRITE);
    memcpy(end - 23, d, 23); /* not aligned, either */
    memcpy(f->regions[0].host, (char *)d + 23, 9);
    put(f, HIGH - 23, 32, VRING_DESC_F_INDIRECT, 0);
    struct vq_chain *c = pop_one(f);
    assert_int_equal(c->readable, 2);
    assert_int_equal(c->readable_bytes, 16);
    assert_int_equal(c->writable, 2);
    assert_int_equal(c->writable_bytes, 8);
    assert_ptr_equal(c->vec[3].iov_base, f->regions[0].host);
}

static void chain_may_fill_the_ring_and_cross_its_end(void **state)
{
    struct fixture *f = *state;

    f->setup.avail_idx = f->setup.used_idx = 3; /* in a second lap */
    memset(f->ring, 0xff, sizeof(*f->ring) * SIZE);
    start(f);
    for (unsigned lap = 0; lap < 5; lap++) {
        for (unsigned i = 0; i < SIZE; i++) {
            put(f, DATA + 16 * i, 8 + i, i + 1 < SIZE ? VRING_DESC_F_NEXT : 0,
                lap);
        }
        struct vq_chain *c = pop_one(f);
        assert_int_equal(c->head, lap);
        assert_int_equal(c->readable, SIZE);
        for (unsigned i = 0; i < SIZE; i++) {
            assert_int_equal(c->vec[i].iov_len, 8 + i);
        }
        assert_false(virtqueue_has_work(&f->vq));
        virtqueue_push(&f->vq, lap, 0);
        virtqueue_publish(&f->vq);
        assert_true(vring_packed_marked(
            flags_at(f, 3), vring_packed_used(lap % 2 ? 0x8000 : 0)));
    }
}

/* 2.7.5: the driver finds used descriptors one behind the other, each as many
 * descriptors further as its chain was long. */
static void driver_that_follows_the_lengths_finds_every_id_once(void **state)
{
    struct fixture *f = *state;
    uint64_t rng = 1;

#define RND(n) \
    ((unsigned)((rng = rng * UINT64_C(6364136223846793005) + 11) >> 33) % (n))
    for (unsigned size = 1; size <= 16; size++) {
        unsigned length[16] = {0}, used = 0, free_descs = size;
        uint16_t heads[16], popped[16], reaped = VRING_PACKED_FIRST;
        unsigned n_popped = 0;

        memset(f->regions[1].host, 0, 0x1000);
        f->setup.size = size;
        start(f);
        while (used < 3000) {
            /* Some chains, with ids that are free. */
            for (unsigned id = RND(size); id < size; id++) {
                unsigned n = 1 + RND(3);
                if (length[id] || n > free_descs) {
                    continue;
                }
                length[id] = n;
                free_descs -= n;
                for (unsigned i = 0; i < n; i++) {
                    put(f, DATA, 8 + id, i + 1 < n ? VRING_DESC_F_NEXT : 0, id);
                }
            }
            int got = virtqueue_pop(&f->vq, heads, 1 + RND(16));
            assert_true(got >= 0);
            for (int i = 0; i < got; i++) {
                struct vq_chain *c = virtqueue_slot(&f->vq, heads[i]);
                assert_int_equal(c->readable, length[heads[i]]);
                assert_int_equal(c->vec[0].iov_len, 8 + heads[i]);
                popped[n_popped++] = heads[i];
            }
            /* Some of them end, in any order. */
            for (unsigned n = RND(n_popped + 1); n--;) {
                unsigned i = RND(n_popped);
                virtqueue_push(&f->vq, popped[i], popped[i]);
                popped[i] = popped[--n_popped];
            }
            virtqueue_publish(&f->vq);
            for (;;) {
                unsigned i = vring_packed_index(reaped);
                if (!vring_packed_marked(flags_at(f, i),
                                         vring_packed_used(reaped))) {
                    break;
                }
                uint16_t id = f->ring[i].id;
                assert_true(id < size && length[id]);
                assert_int_equal(f->ring[i].len, id);
                reaped = vring_packed_advance(reaped, length[id], size);
                free_descs += length[id];
                length[id] = 0;
                used++;
            }
            assert_int_equal(reaped, f->vq.published_used);
        }
        while (n_popped) {
            virtqueue_push(&f->vq, popped[--n_popped], 0);
        }
        virtqueue_stop(&f->vq);
    }
#undef RND
}

static void batch_is_shown_by_its_first_descriptor(void **state)
{
    struct fixture *f = *state;
    uint16_t heads[SIZE];

    start(f);
    for (unsigned lap = 0; lap < 4; lap++) {
        uint16_t wrap = lap % 2 ? 0 : VRING_PACKED_WRAP;

        for (unsigned i = 0; i < SIZE; i++) {
            put(f, DATA, 16, 0, i);
        }
        assert_int_equal(virtqueue_pop(&f->vq, heads, SIZE), SIZE);
        for (unsigned i = 0; i < SIZE; i++) {
            virtqueue_push(&f->vq, SIZE - 1 - i, i);
        }
        assert_true(
            vring_packed_marked(flags_at(f, 0), vring_packed_avail(wrap)));
        assert_true(virtqueue_publish(&f->vq));
        for (unsigned i = 0; i < SIZE; i++) {
            assert_int_equal(f->ring[i].id, SIZE - 1 - i);
            assert_int_equal(flags_at(f, i), vring_packed_used(wrap) |
                                                 (i ? VRING_DESC_F_WRITE : 0));
        }
        assert_false(virtqueue_publish(&f->vq)); /* nothing new */
    }
}

/* ---- notifications ---- */

static void event_index_says_when_to_interrupt(void **state)
{
    struct fixture *f = *state;
    uint16_t heads[4];

    start(f);
    put(f, DATA, 8, VRING_DESC_F_NEXT, 0);
    put(f, DATA, 8, 0, 0);
    for (unsigned i = 1; i < 4; i++) {
        put(f, DATA, 8, 0, i);
    }
    assert_int_equal(virtqueue_pop(&f->vq, heads, 4), 4);
    /* When descriptor 3 is used, which is the third chain's. */
    *f->driver_event = VRING_EVENT(VRING_EVENT_DESC, VRING_PACKED_FIRST + 3);
    virtqueue_push(&f->vq, 0, 0);
    virtqueue_push(&f->vq, 1, 0);
    assert_false(virtqueue_publish(&f->vq));
    virtqueue_push(&f->vq, 2, 0);
    assert_true(virtqueue_publish(&f->vq));
    virtqueue_push(&f->vq, 3, 0);
    assert_false(virtqueue_publish(&f->vq));
}

static void without_event_index_the_flags_say_so(void **state)
{
    struct fixture *f = *state;

    f->setup.event_idx = false;
    start(f);
    for (unsigned i = 0; i < 4; i++) {
        put(f, DATA, 8, 0, 0);
        pop_one(f);
        *f->driver_event = VRING_EVENT(
            i % 2 ? VRING_EVENT_DISABLE : VRING_EVENT_ENABLE, 0x1234);
        virtqueue_push(&f->vq, 0, 0);
        assert_int_equal(virtqueue_publish(&f->vq), i % 2 == 0);
    }
    virtqueue_disarm(&f->vq);
    assert_int_equal(*f->device_event >> 16, VRING_EVENT_DISABLE);
    assert_false(virtqueue_arm(&f->vq));
    assert_int_equal(*f->device_event >> 16, VRING_EVENT_ENABLE);
    put(f, DATA, 8, 0, 0);
    assert_true(virtqueue_arm(&f->vq));
}

static void arming_asks_for_the_next_chain_and_looks_again(void **state)
{
    struct fixture *f = *state;

    start(f);
    for (unsigned i = 0; i < 3 * SIZE; i++) {
        put(f, DATA, 8, 0, 0);
        assert_true(virtqueue_arm(&f->vq)); /* there is one already */
        pop_one(f);
        assert_false(virtqueue_arm(&f->vq));
        assert_int_equal(*f->device_event,
                         VRING_EVENT(VRING_EVENT_DESC, f->next));
        virtqueue_disarm(&f->vq);
        assert_int_equal(*f->device_event >> 16, VRING_EVENT_DISABLE);
        virtqueue_push(&f->vq, 0, 0);
        virtqueue_publish(&f->vq);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(positions_count_descriptors_and_laps),
        cmocka_unit_test(event_is_due_when_its_position_is_passed),
        PACKED(chain_has_the_id_of_its_last_descriptor),
        PACKED(indirect_table_is_a_whole_chain),
        PACKED(indirect_table_may_be_longer_than_the_ring),
        PACKED(table_and_buffers_may_straddle_regions),
        PACKED(chain_may_fill_the_ring_and_cross_its_end),
        PACKED(driver_that_follows_the_lengths_finds_every_id_once),
        PACKED(batch_is_shown_by_its_first_descriptor),
        PACKED(event_index_says_when_to_interrupt),
        PACKED(without_event_index_the_flags_say_so),
        PACKED(arming_asks_for_the_next_chain_and_looks_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
