/*
 * QMP monitors: sessions with clients over sockets or stdio.
 *
 * A monitor lives on the main loop. It reads requests, runs one at a time as a
 * coroutine of the main loop, and answers in order; events go to every monitor
 * that has negotiated. Handlers visit the graph where it lives (qmp/visit.h).
 * Everything here is called on the main loop's thread unless it says otherwise.
 */
#ifndef VARVE_QMP_MONITOR_H
#define VARVE_QMP_MONITOR_H

#include <glib.h>
#include <stdbool.h>
#include "qapi/types.h"

struct loop;
struct monitor;

/* Once, before anything else here: the loop of the monitors, and the loop of
 * the graph that commands are about. Both outlive monitors_end(). Listens to
 * the block layer, so it must be called before the graph's loop runs or makes
 * anything; blocks for one call on that loop. */
void monitors_begin(struct loop *main_loop, struct loop *graph_loop);
/* Sends what is still queued (waits a short time for slow clients), closes all
 * monitors, removes their socket files, and ends objects. Not inside a
 * coroutine, and only when monitors_stop() has said true. */
void monitors_end(void);
/* No more requests are read from now on, as when the program ends; true if no
 * command is running. Events still go out. */
bool monitors_stop(void);

/* ---- where a monitor listens ---- */

enum monitor_channel_kind {
    MONITOR_CHANNEL_STDIO,
    MONITOR_CHANNEL_UNIX,
    MONITOR_CHANNEL_TCP,
};

struct monitor_channel {
    enum monitor_channel_kind kind;
    const char *path; /* UNIX */
    bool abstract;    /* UNIX: in the abstract name space of Linux */
    const char *host; /* TCP; NULL or "" is any (server) or local (client) */
    const char *port; /* TCP; a number or a service, "0" is any free one */
    bool ipv4_only, ipv6_only;
    bool server;
    bool wait;    /* server: monitor_new() blocks until a client is there */
    bool nodelay; /* TCP_NODELAY */
    int64_t reconnect_s; /* client: seconds between attempts; 0 = never */
};

/* Opens the channel: binds and listens, or connects. Strings are copied. An
 * existing socket file is replaced. One client at a time, the next waits in the
 * kernel's queue. pretty: answers are indented. NULL and *error if it cannot;
 * two monitors on stdio are refused. */
struct monitor *monitor_new(const char *id,
                            const struct monitor_channel *channel, bool pretty,
                            GError **error);
/* Where a server listens, for people: "unix:/run/x.sock,server=on" or
 * "tcp:127.0.0.1:4444,server=on" with the port that was chosen. g_free() it. */
char *monitor_address(const struct monitor *monitor);

/* ---- events, from any loop ---- */

/* Sends an event with the current time to every monitor; copies data, which is
 * of the event's type (NULL if it has none). On another loop than the main one
 * it goes by mail: events and answers of one loop arrive in order. */
void monitor_event(enum qapi_event event, const void *data);

/* ---- the program's side of some commands ---- */

/* Called by the quit command after its answer was queued; the program then
 * ends its main loop. */
void monitors_set_quit(void (*quit)(void *opaque), void *opaque);

/* What blockdev-add does: opens a node that the monitor owns, on the loop where
 * the nodes that it refers to are. The options must name it. With the change
 * lock or before anybody else is there, on any loop; suspends. */
bool co_monitor_add_node(const struct blockdev_options *options,
                         GError **error);
/* What block-export-add does. iothread is the loop of the I/O thread that the
 * options name, NULL if there is none. With the change lock or before anybody
 * else is there, on any loop; suspends. */
bool co_monitor_add_export(const struct block_export_options *options,
                           struct loop *iothread, GError **error);
/* Lets go of all nodes of the current loop that blockdev-add made: the end of
 * the program, when exports, devices and jobs are gone. Suspends. */
void co_monitor_close_nodes(void);

#endif
