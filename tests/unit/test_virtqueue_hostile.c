/*
 * hw/virtio-blk: what a broken or hostile driver can put on a split ring.
 */
#include "lib/ring_hostile.h"

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

static void indirect_too_long(struct fixture *f)
{
    set(&f->desc[0], TABLE, 16 * (MAX_SIZE + 1), VRING_DESC_F_INDIRECT, 0);
    for (unsigned i = 0; i <= MAX_SIZE; i++) {
        set(&f->table[i], DATA, 8, i < MAX_SIZE ? VRING_DESC_F_NEXT : 0, i + 1);
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

static const struct violation violations[] = {
    {"loop", loop_in_chain},
    {"loop to itself", loop_to_itself},
    {"loop in an indirect table", loop_in_indirect_table},
    {"indirect chain too long", indirect_too_long},
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
    check_violations(*state, violations, G_N_ELEMENTS(violations));
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
        assert_false(try_start(f));
        assert_non_null(f->vq.broken);
        assert_false(virtqueue_has_work(&f->vq));
        virtqueue_stop(&f->vq);
    }
}

/* ---- mostly valid chains, some of them spoilt ---- */

static void random_chain(struct fixture *f)
{
    uint16_t head = rnd(SIZE);
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
    make_available(f, rnd(SIZE));
}

static void random_chains_never_reach_outside_guest_memory(void **state)
{
    check_random_chains(*state, random_chain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(every_violation_breaks_the_queue_and_touches_nothing),
        CASE(head_that_is_in_flight_cannot_come_again),
        CASE(indirect_needs_negotiation),
        CASE(areas_must_lie_aligned_in_memory),
        CASE(random_chains_never_reach_outside_guest_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
