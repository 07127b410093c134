/*
 * The bytes of one monitor: a listening or connecting socket, or stdio, with at
 * most one client at a time and a queue of output. Main loop only; nothing here
 * suspends.
 */
#ifndef VARVE_QMP_CHANNEL_H
#define VARVE_QMP_CHANNEL_H

#include <glib.h>
#include <stdbool.h>
#include "qmp/monitor.h"

struct loop;
struct channel;

struct channel_ops {
    void (*opened)(void *opaque); /* a client is there */
    void (*closed)(void *opaque); /* it has gone */
    /* Bytes have come; called only while reading is switched on. */
    void (*received)(void *opaque, const char *data, size_t length);
    /* The output queue has become short enough to go on. */
    void (*drained)(void *opaque);
};

/* Listens or connects. A client that is there when it returns was not told of
 * by opened(): ask channel_is_open(). */
struct channel *channel_new(struct loop *loop,
                            const struct monitor_channel *how,
                            const struct channel_ops *ops, void *opaque,
                            GError **error);
/* Writes out what is queued, for a limited time, and closes everything. */
void channel_free(struct channel *c);
bool channel_is_open(const struct channel *c);
/* Switches reading on or off; off when a client comes. */
void channel_set_reading(struct channel *c, bool on);
/* The queue to append to; channel_flush() or channel_flush_soon() must follow.
 * Without a client what is appended is dropped. */
GString *channel_output(struct channel *c);
void channel_flush(struct channel *c);
/* Once, later in this pass of the loop. */
void channel_flush_soon(struct channel *c);
/* So much output is queued that no more requests should be taken. */
bool channel_is_congested(const struct channel *c);
char *channel_address(const struct channel *c);

#endif
