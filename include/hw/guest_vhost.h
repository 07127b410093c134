/*
 * A guest whose device is behind a vhost-user socket, of any back-end.
 *
 * Everything of hw/guest.h but co_guest_reset() and co_guest_free() applies to
 * it. Memory and rings outlive a connection: with a reconnect time, what is in
 * flight when the back-end goes away waits for the next one, which does it
 * again. All is called on the loop that connects.
 */
#ifndef VARVE_HW_GUEST_VHOST_H
#define VARVE_HW_GUEST_VHOST_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct guest;

struct guest_vhost_options {
    const char *path;     /* of the socket; "@name": abstract */
    unsigned num_queues;  /* default 1; the back-end must have as many */
    uint16_t queue_size;  /* a power of 2; default 128 */
    int64_t reconnect_ns; /* how long requests wait for a back-end that is
                             gone; 0: they fail, and it is not looked for */
    bool packed;          /* takes packed rings, if they are offered */
    uint64_t without;     /* features not to take, as bits */
    uint64_t without_protocol;
    /* In a coroutine: the disk has changed its length. May be NULL. */
    void (*co_resized)(void *opaque);
    void *opaque;
};

/* Connects, negotiates and starts the queues. NULL and *error, which names the
 * message that failed. Suspends. */
struct guest *co_guest_connect(const struct guest_vhost_options *options,
                               GError **error);
/* Stops the queues and hangs up; what still waits for a request goes on without
 * it. Suspends. */
void co_guest_disconnect(struct guest *g);

/* What the device can do. */
struct guest_vhost_info {
    uint64_t features, protocol_features; /* negotiated */
    bool read_only;
    uint32_t logical_bytes;
    uint32_t max_transfer;            /* bytes of a read or write */
    uint32_t max_discard, max_zeroes; /* sectors; 0: not supported */
    uint32_t discard_alignment;       /* sectors; 0: unknown */
    uint32_t opt_io_bytes;            /* 0: no wish */
    uint64_t connections;             /* that got as far as to start queues */
};
void guest_vhost_query(const struct guest *g, struct guest_vhost_info *info);

#endif
