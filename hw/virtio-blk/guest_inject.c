/*
 * What a broken or hostile driver might put on a queue, for tests of how the
 * device answers. Each is one row; all use the first free slot of queue 0.
 * Runs on the guest's loop.
 */
#include "hw/virtio-blk/guest_internal.h"

#include "util/error.h"

#define BAD_ADDRESS UINT64_C(0xffff000000000000)

/* Of a packed table's descriptors the last two fields are id and flags. */
static void set(struct vring_desc *d, uint64_t gpa, uint32_t bytes,
                uint16_t flags, uint16_t next)
{
    d->addr = htole64(gpa);
    d->len = htole32(bytes);
    d->flags = htole16(flags);
    d->next = htole16(next);
}

/* ---- split ---- */

static uint16_t head_of(const struct guest_queue *q, const struct guest_slot *s)
{
    return (s - q->slots) * (q->indirect ? 1 : 3);
}

static uint64_t table_gpa(const struct guest_slot *s)
{
    return s->control_gpa + offsetof(struct guest_slot_control, table);
}

/* One descriptor as the whole chain. */
static void single(struct guest_queue *q, const struct guest_slot *s,
                   uint64_t gpa, uint32_t bytes, uint16_t flags)
{
    uint16_t head = head_of(q, s);

    set(&q->desc[head], gpa, bytes, flags, head);
    guest_queue_add_raw(q, head);
}

static void split_loop(struct guest_queue *q, struct guest_slot *s)
{
    single(q, s, s->control_gpa, 16, VRING_DESC_F_NEXT);
}

static void split_address(struct guest_queue *q, struct guest_slot *s)
{
    single(q, s, BAD_ADDRESS, 16, 0);
}

static void split_zero_length(struct guest_queue *q, struct guest_slot *s)
{
    single(q, s, s->control_gpa, 0, 0);
}

static void split_no_status(struct guest_queue *q, struct guest_slot *s)
{
    single(q, s, s->control_gpa, 16, 0);
}

static void split_avail_index(struct guest_queue *q, struct guest_slot *s)
{
    guest_queue_add_raw(q, head_of(q, s));
    q->avail_idx += q->size + 1;
}

/* In descriptors of the slot's own: another request's would make it whole. */
static void split_short_header(struct guest_queue *q, struct guest_slot *s)
{
    struct vring_desc *chain = q->indirect ? s->control->table : q->desc;
    uint16_t head = head_of(q, s), at = q->indirect ? 0 : head;

    set(&chain[at], s->control_gpa, 15, VRING_DESC_F_NEXT, at + 1);
    set(&chain[at + 1], s->data_gpa, 1, VRING_DESC_F_WRITE, 0);
    if (q->indirect) {
        set(&q->desc[head], table_gpa(s), 32, VRING_DESC_F_INDIRECT, 0);
    }
    guest_queue_add_raw(q, head);
}

static void split_indirect(struct guest_queue *q, struct guest_slot *s)
{
    set(&s->control->table[0], table_gpa(s), 16, VRING_DESC_F_INDIRECT, 0);
    single(q, s, table_gpa(s), 16, VRING_DESC_F_INDIRECT);
}

/* ---- packed ---- */

static void put(struct guest_queue *q, const struct guest_slot *s, uint64_t gpa,
                uint32_t bytes, uint16_t flags)
{
    guest_packed_put(q, gpa, bytes, flags, s - q->slots);
}

/* Around the whole ring, which has no other loops. */
static void packed_loop(struct guest_queue *q, struct guest_slot *s)
{
    for (unsigned i = 0; i < q->size; i++) {
        put(q, s, s->control_gpa, 16, VRING_DESC_F_NEXT);
    }
}

static void packed_address(struct guest_queue *q, struct guest_slot *s)
{
    put(q, s, BAD_ADDRESS, 16, 0);
}

static void packed_zero_length(struct guest_queue *q, struct guest_slot *s)
{
    put(q, s, s->control_gpa, 0, 0);
}

static void packed_no_status(struct guest_queue *q, struct guest_slot *s)
{
    put(q, s, s->control_gpa, 16, 0);
}

/* Into a descriptor that was not made available. */
static void packed_avail_index(struct guest_queue *q, struct guest_slot *s)
{
    put(q, s, s->control_gpa, 16, VRING_DESC_F_NEXT);
}

static void packed_short_header(struct guest_queue *q, struct guest_slot *s)
{
    put(q, s, s->control_gpa, 15, VRING_DESC_F_NEXT);
    put(q, s, s->data_gpa, 1, VRING_DESC_F_WRITE);
}

static void packed_indirect(struct guest_queue *q, struct guest_slot *s)
{
    set(&s->control->table[0], table_gpa(s), 16, 0, VRING_DESC_F_INDIRECT);
    put(q, s, table_gpa(s), 16, VRING_DESC_F_INDIRECT);
}

/* ---- both ---- */

static void bad_head(struct guest_queue *q, struct guest_slot *s)
{
    guest_queue_add_raw(q, q->size);
}

typedef void inject_fn(struct guest_queue *q, struct guest_slot *s);

static const struct {
    inject_fn *split, *packed;
} rows[] = {
    [GUEST_MALFORMATION_LOOP] = {split_loop, packed_loop},
    [GUEST_MALFORMATION_ADDRESS] = {split_address, packed_address},
    [GUEST_MALFORMATION_HEAD] = {bad_head, bad_head},
    [GUEST_MALFORMATION_AVAIL_INDEX] = {split_avail_index, packed_avail_index},
    [GUEST_MALFORMATION_ZERO_LENGTH] = {split_zero_length, packed_zero_length},
    [GUEST_MALFORMATION_NO_STATUS] = {split_no_status, packed_no_status},
    [GUEST_MALFORMATION_SHORT_HEADER] = {split_short_header,
                                         packed_short_header},
    [GUEST_MALFORMATION_INDIRECT] = {split_indirect, packed_indirect},
};

bool guest_inject(struct guest *g, enum guest_malformation what, GError **error)
{
    struct guest_queue *q = &g->queues[0];

    if (guest_obstacle(g)) {
        return error_set(error, "%s", guest_obstacle(g));
    }
    /* It never comes back, and a reset makes all slots anew. */
    struct guest_slot *slot = guest_queue_get(q);

    if (!slot) {
        return error_set(error, "The guest's queue is full");
    }
    (q->format == &guest_packed_ring ? rows[what].packed
                                     : rows[what].split)(q, slot);
    guest_ring(g);
    return true;
}
