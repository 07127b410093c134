/*
 * hw/virtio-blk: what a broken or hostile driver can put on a packed ring.
 */
#include "lib/ring_hostile.h"

#define NEXT     VRING_DESC_F_NEXT
#define WRITE    VRING_DESC_F_WRITE
#define INDIRECT VRING_DESC_F_INDIRECT

/* ---- violations ---- */

static void chain_around_the_ring(struct fixture *f)
{
    for (unsigned i = 0; i < SIZE; i++) {
        put(f, DATA, 8, NEXT, 0);
    }
}

static void chain_around_the_ring_twice(struct fixture *f)
{
    chain_around_the_ring(f);
    /* The first one in both laps at once is impossible; the rest is not. */
    f->ring[1].flags = NEXT | vring_packed_avail(0);
}

static void chain_into_unavailable(struct fixture *f)
{
    put(f, DATA, 8, NEXT, 0);
}

static void chain_into_used(struct fixture *f)
{
    put(f, DATA, 8, NEXT, 0);
    f->ring[1].flags = vring_packed_used(VRING_PACKED_FIRST);
}

static void chain_into_the_other_lap(struct fixture *f)
{
    put(f, DATA, 8, NEXT, 0);
    f->ring[1].flags = vring_packed_avail(0);
}

static void id_beyond_ring(struct fixture *f)
{
    put(f, DATA, 8, 0, SIZE);
}

static void id_far_beyond_ring(struct fixture *f)
{
    put(f, DATA, 8, 0, 0xffff);
}

static void id_of_a_chain_beyond_ring(struct fixture *f)
{
    put(f, DATA, 8, NEXT, 0);
    put(f, DATA, 8, 0, SIZE);
}

static void id_twice_in_one_batch(struct fixture *f)
{
    put(f, DATA, 8, 0, 4);
    put(f, DATA, 8, 0, 4);
}

static void buffer_outside_memory(struct fixture *f)
{
    put(f, 0xdead0000, 8, 0, 0);
}

static void buffer_reaches_out_of_memory(struct fixture *f)
{
    put(f, APART + 0xff8, 9, 0, 0);
}

static void buffer_wraps_around(struct fixture *f)
{
    put(f, UINT64_MAX - 3, 8, 0, 0);
}

static void buffer_is_empty(struct fixture *f)
{
    put(f, DATA, 0, 0, 0);
}

static void buffer_is_huge(struct fixture *f)
{
    put(f, LOW, UINT32_MAX, 0, 0);
}

static void readable_after_writable(struct fixture *f)
{
    put(f, DATA, 8, NEXT | WRITE, 0);
    put(f, DATA, 8, 0, 0);
}

static void indirect_begins_a_chain(struct fixture *f)
{
    set_packed(&f->packed_table[0], DATA, 8, 0);
    put(f, TABLE, 16, INDIRECT | NEXT, 0);
    put(f, DATA, 8, 0, 0);
}

static void indirect_ends_a_chain(struct fixture *f)
{
    set_packed(&f->packed_table[0], DATA, 8, 0);
    put(f, DATA, 8, NEXT, 0);
    put(f, TABLE, 16, INDIRECT, 0);
}

static void indirect_amid_a_chain(struct fixture *f)
{
    set_packed(&f->packed_table[0], DATA, 8, 0);
    put(f, DATA, 8, NEXT, 0);
    put(f, TABLE, 16, INDIRECT | NEXT, 0);
    put(f, DATA, 8, 0, 0);
}

static void indirect_in_indirect(struct fixture *f)
{
    set_packed(&f->packed_table[0], TABLE, 16, INDIRECT);
    put(f, TABLE, 16, INDIRECT, 0);
}

static void indirect_too_long(struct fixture *f)
{
    for (unsigned i = 0; i <= MAX_SIZE; i++) {
        set_packed(&f->packed_table[i], DATA, 8, 0);
    }
    put(f, TABLE, 16 * (MAX_SIZE + 1), INDIRECT, 0);
}

static void indirect_of_odd_length(struct fixture *f)
{
    set_packed(&f->packed_table[0], DATA, 8, 0);
    put(f, TABLE, 24, INDIRECT, 0);
}

static void indirect_of_no_length(struct fixture *f)
{
    put(f, TABLE, 0, INDIRECT, 0);
}

static void indirect_outside_memory(struct fixture *f)
{
    put(f, 0x7000000, 32, INDIRECT, 0);
}

static void indirect_wraps_around(struct fixture *f)
{
    put(f, UINT64_MAX - 15, 32, INDIRECT, 0);
}

static void indirect_end_outside_memory(struct fixture *f)
{
    set_packed((struct vring_packed_desc *)(f->regions[2].host + 0xff0), DATA,
               8, 0);
    put(f, APART + 0xff0, 32, INDIRECT, 0);
}

static void good_chain_then_bad_one(struct fixture *f)
{
    put(f, DATA, 8, NEXT, 4);
    put(f, DATA, 8, 0, 4);
    put(f, DATA, 0, 0, 5);
}

static const struct violation violations[] = {
    {"chain around the ring", chain_around_the_ring},
    {"chain around the ring twice", chain_around_the_ring_twice},
    {"chain into an unavailable descriptor", chain_into_unavailable},
    {"chain into a used descriptor", chain_into_used},
    {"chain into the other lap", chain_into_the_other_lap},
    {"id beyond the ring", id_beyond_ring},
    {"id far beyond the ring", id_far_beyond_ring},
    {"id of a chain beyond the ring", id_of_a_chain_beyond_ring},
    {"id twice in a batch", id_twice_in_one_batch},
    {"buffer outside memory", buffer_outside_memory},
    {"buffer reaches out of memory", buffer_reaches_out_of_memory},
    {"buffer wraps around", buffer_wraps_around},
    {"empty buffer", buffer_is_empty},
    {"buffer of 4 GiB", buffer_is_huge},
    {"readable after writable", readable_after_writable},
    {"indirect begins a chain", indirect_begins_a_chain},
    {"indirect ends a chain", indirect_ends_a_chain},
    {"indirect amid a chain", indirect_amid_a_chain},
    {"indirect in indirect", indirect_in_indirect},
    {"indirect chain too long", indirect_too_long},
    {"indirect of odd length", indirect_of_odd_length},
    {"indirect of no length", indirect_of_no_length},
    {"indirect outside memory", indirect_outside_memory},
    {"indirect wraps around", indirect_wraps_around},
    {"indirect reaches out of memory", indirect_end_outside_memory},
    {"good chain, then a bad one", good_chain_then_bad_one},
};

static void every_violation_breaks_the_queue_and_touches_nothing(void **state)
{
    check_violations(*state, violations, G_N_ELEMENTS(violations));
}

static void violations_across_the_end_of_the_ring_as_well(void **state)
{
    struct fixture *f = *state;

    f->setup.avail_idx = f->setup.used_idx = VRING_PACKED_WRAP | (SIZE - 1);
    check_violations(f, violations + 5, G_N_ELEMENTS(violations) - 5);
}

static void id_that_is_in_flight_cannot_come_again(void **state)
{
    struct fixture *f = *state;
    uint16_t heads[2];

    start(f);
    put(f, DATA, 8, WRITE, 0);
    pop_one(f);
    put(f, DATA, 8, 0, 1);
    put(f, DATA, 8, 0, 0);
    assert_int_equal(virtqueue_pop(&f->vq, heads, 2), -EBADMSG);
    /* The one in flight ends without a trace in the ring. */
    g_autofree void *before = g_memdup2(f->regions[1].host, 0x4000);
    virtqueue_push(&f->vq, 0, 8);
    assert_false(virtqueue_publish(&f->vq));
    assert_memory_equal(before, f->regions[1].host, 0x4000);
    assert_int_equal(f->vq.in_flight, 0);
}

/* The ring has wrapped, but the device has returned nothing: what it will
 * return would overwrite what is available. */
static void more_descriptors_than_the_ring_holds_break_it(void **state)
{
    struct fixture *f = *state;
    uint16_t heads[SIZE];

    start(f);
    for (unsigned i = 0; i < SIZE; i++) {
        put(f, DATA, 8, i % 2 ? 0 : NEXT, i);
    }
    assert_int_equal(virtqueue_pop(&f->vq, heads, SIZE), SIZE / 2);
    put(f, DATA, 8, 0, 0);
    assert_true(virtqueue_has_work(&f->vq));
    assert_int_equal(virtqueue_pop(&f->vq, heads, SIZE), -EBADMSG);
    virtqueue_stop(&f->vq);

    /* A chain that has room in part. */
    memset(f->ring, 0, SIZE * sizeof(*f->ring));
    start(f);
    put(f, DATA, 8, 0, 0);
    pop_one(f);
    for (unsigned i = 0; i < SIZE; i++) {
        put(f, DATA, 8, i + 1 < SIZE ? NEXT : 0, 1);
    }
    assert_int_equal(virtqueue_pop(&f->vq, heads, SIZE), -EBADMSG);
}

static void indirect_needs_negotiation(void **state)
{
    struct fixture *f = *state;
    uint16_t head;

    f->setup.indirect = false;
    start(f);
    set_packed(&f->packed_table[0], DATA, 8, 0);
    put(f, TABLE, 16, INDIRECT, 0);
    assert_int_equal(virtqueue_pop(&f->vq, &head, 1), -EBADMSG);
}

static void areas_must_lie_aligned_in_memory(void **state)
{
    struct fixture *f = *state;
    const struct virtqueue_setup good = f->setup;
    static const struct {
        uint64_t desc, driver, device;
        uint16_t size, avail_idx, used_idx;
        bool fine;
    } rows[] = {
        {DESC, AVAIL, USED, SIZE, 0x8000, 0x8000, true},
        {DESC, AVAIL + 4, USED + 12, 7, 6, 0x8006, true},
        {DESC, AVAIL, APART + 0xffc, 1, 0, 0, true},
        {APART + 0xf80, APART, APART + 4, SIZE, 0, 0, true},
        {DESC + 8, AVAIL, USED, SIZE, 0, 0, false},
        {DESC, AVAIL + 2, USED, SIZE, 0, 0, false},
        {DESC, AVAIL, USED + 2, SIZE, 0, 0, false},
        {0, AVAIL, USED, SIZE, 0, 0, false},
        {DESC, UINT64_MAX - 3, USED, SIZE, 0, 0, false},
        {DESC, AVAIL, 0xfffff000, SIZE, 0, 0, false},
        {APART + 0xff0, AVAIL, USED, 2, 0, 0, false},
        {DESC, APART + 0x1000, USED, SIZE, 0, 0, false},
        {HIGH - 64, AVAIL, USED, SIZE, 0, 0, false},
        {DESC, AVAIL, USED, 0, 0, 0, false},
        {DESC, AVAIL, USED, 17, 0, 0, false},
        {DESC, AVAIL, USED, 32768, 0, 0, false},
        {DESC, AVAIL, USED, SIZE, SIZE, 0, false},
        {DESC, AVAIL, USED, SIZE, 0, 0x8000 | SIZE, false},
        {DESC, AVAIL, USED, SIZE, 0x7fff, 0, false},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        f->setup = good;
        f->setup.desc = rows[i].desc;
        f->setup.avail = rows[i].driver;
        f->setup.used = rows[i].device;
        f->setup.size = rows[i].size;
        f->setup.avail_idx = rows[i].avail_idx;
        f->setup.used_idx = rows[i].used_idx;
        if (try_start(f) != rows[i].fine) {
            fail_msg("row %u", i);
        }
        assert_int_equal(!f->vq.broken, rows[i].fine);
        virtqueue_has_work(&f->vq);
        virtqueue_stop(&f->vq);
    }
}

/* ---- mostly valid chains, some of them spoilt ---- */

static void random_chain(struct fixture *f)
{
    unsigned n = 1 + rnd(3);
    bool indirect = rnd(2);
    uint16_t id = rnd(SIZE);

    for (unsigned i = 0; i < n; i++) {
        uint64_t addr = DATA + rnd(0x800);
        uint32_t len = 1 + rnd(0x1400);
        uint16_t flags = i >= n / 2 ? WRITE : 0;

        if (indirect) {
            set_packed(&f->packed_table[i], addr, len, flags);
        } else {
            put(f, addr, len, flags | (i + 1 < n ? NEXT : 0), id);
        }
    }
    if (indirect) {
        put(f, TABLE, n * 16, INDIRECT, id);
    }
    if (!rnd(4)) {
        /* A word of the ring or the table changes. */
        f->regions[1].host[(rnd(2) ? 0 : TABLE - LOW) + rnd(128)] ^= 1
                                                                     << rnd(8);
    }
}

static void random_chains_never_reach_outside_guest_memory(void **state)
{
    check_random_chains(*state, random_chain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        PACKED(every_violation_breaks_the_queue_and_touches_nothing),
        PACKED(violations_across_the_end_of_the_ring_as_well),
        PACKED(id_that_is_in_flight_cannot_come_again),
        PACKED(more_descriptors_than_the_ring_holds_break_it),
        PACKED(indirect_needs_negotiation),
        PACKED(areas_must_lie_aligned_in_memory),
        PACKED(random_chains_never_reach_outside_guest_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
