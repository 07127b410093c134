/*
 * What a broken or hostile driver might put on a queue, for tests of how the
 * device answers. Each is one row; all use the first free slot of queue 0.
 * Runs on the guest's loop.
 */
#include "hw/virtio-blk/guest_internal.h"

#include "util/error.h"

static void set(struct vring_desc *d, uint64_t gpa, uint32_t bytes,
                uint16_t flags, uint16_t next)
{
    d->addr = htole64(gpa);
    d->len = htole32(bytes);
    d->flags = htole16(flags);
    d->next = htole16(next);
}

static void bad_loop(struct guest_queue *q, struct guest_slot *s, uint16_t head)
{
    set(&q->desc[head], s->control_gpa, 16, VRING_DESC_F_NEXT, head);
}

static void bad_address(struct guest_queue *q, struct guest_slot *s,
                        uint16_t head)
{
    set(&q->desc[head], UINT64_C(0xffff000000000000), 16, 0, 0);
}

static void bad_zero_length(struct guest_queue *q, struct guest_slot *s,
                            uint16_t head)
{
    set(&q->desc[head], s->control_gpa, 0, 0, 0);
}

static void bad_no_status(struct guest_queue *q, struct guest_slot *s,
                          uint16_t head)
{
    set(&q->desc[head], s->control_gpa, 16, 0, 0);
}

static uint64_t table_gpa(const struct guest_slot *s)
{
    return s->control_gpa + offsetof(struct guest_slot_control, table);
}

/* In descriptors of the slot's own: another request's would make it whole. */
static void bad_short_header(struct guest_queue *q, struct guest_slot *s,
                             uint16_t head)
{
    struct vring_desc *chain = q->indirect ? s->control->table : q->desc;
    uint16_t at = q->indirect ? 0 : head;

    set(&chain[at], s->control_gpa, 15, VRING_DESC_F_NEXT, at + 1);
    set(&chain[at + 1], s->data_gpa, 1, VRING_DESC_F_WRITE, 0);
    if (q->indirect) {
        set(&q->desc[head], table_gpa(s), 32, VRING_DESC_F_INDIRECT, 0);
    }
}

static void bad_indirect(struct guest_queue *q, struct guest_slot *s,
                         uint16_t head)
{
    set(&q->desc[head], table_gpa(s), 16, VRING_DESC_F_INDIRECT, 0);
    set(&s->control->table[0], table_gpa(s), 16, VRING_DESC_F_INDIRECT, 0);
}

static const struct {
    void (*write)(struct guest_queue *q, struct guest_slot *s, uint16_t head);
    uint16_t head_plus, index_plus; /* beyond the ring */
} rows[] = {
    [GUEST_MALFORMATION_LOOP] = {.write = bad_loop},
    [GUEST_MALFORMATION_ADDRESS] = {.write = bad_address},
    [GUEST_MALFORMATION_HEAD] = {.head_plus = 1},
    [GUEST_MALFORMATION_AVAIL_INDEX] = {.index_plus = 1},
    [GUEST_MALFORMATION_ZERO_LENGTH] = {.write = bad_zero_length},
    [GUEST_MALFORMATION_NO_STATUS] = {.write = bad_no_status},
    [GUEST_MALFORMATION_SHORT_HEADER] = {.write = bad_short_header},
    [GUEST_MALFORMATION_INDIRECT] = {.write = bad_indirect},
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
    uint16_t head = slot - q->slots;

    if (!q->indirect) {
        head *= 3;
    }
    if (rows[what].write) {
        rows[what].write(q, slot, head);
    }
    guest_queue_add_raw(q, rows[what].head_plus ? q->size : head);
    if (rows[what].index_plus) {
        q->avail_idx += q->size + rows[what].index_plus;
    }
    guest_ring(g);
    return true;
}
