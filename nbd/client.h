/*
 * A connection to an NBD server, as a client of it. Private to nbd/.
 *
 * A struct nbd_client outlives its connections: when one is lost, the next
 * request looks for the server again. What it knows of the export is what the
 * last connection said. On the node's loop, which may change while nothing is
 * in flight.
 */
#ifndef VARVE_NBD_CLIENT_H
#define VARVE_NBD_CLIENT_H

#include <libnbd.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "aio/colock.h"
#include "aio/loop.h"
#include "aio/timer.h"
#include "nbd/extents.h"
#include "qapi/types.h"

/* What the server says of the export; sizes in bytes, checked. */
struct nbd_export_info {
    int64_t bytes;
    int64_t min_block, opt_block, max_block; /* opt 0: it has no preference */
    bool read_only, can_flush, can_fua, can_trim, can_zero, can_fast_zero;
    bool has_status; /* the metadata context was negotiated */
};

enum nbd_op {
    NBD_OP_READ,
    NBD_OP_WRITE,
    NBD_OP_ZERO,
    NBD_OP_TRIM,
    NBD_OP_FLUSH,
    NBD_OP_STATUS,
};

struct nbd_command {
    enum nbd_op op;
    uint32_t flags; /* LIBNBD_CMD_FLAG_... */
    int64_t offset, bytes;
    void *buffer;                /* of reads and writes */
    struct nbd_extents *extents; /* of STATUS: filled in */
};

struct nbd_request;
LIST_HEAD(nbd_request_list, nbd_request);

struct nbd_client {
    struct blockdev_options *options; /* its own copy */
    char *server;                     /* for people: "HOST:PORT" or a path */
    struct nbd_export_info info;

    struct nbd_handle *handle; /* NULL: no connection */
    int fd;                    /* that the loop watches, or -1 */
    bool quiet;                /* nobody is served but requests in flight */
    struct nbd_request_list requests;
    struct deferred again; /* replies that libnbd may hold already */

    bool connecting; /* one coroutine does; the others wait */
    struct co_queue connected;
    struct co_sleep event; /* of the socket, for whoever connects */
    int64_t deadline_ns;   /* for it; 0 = none */
    bool negotiated;       /* connected, and past the handshake */
    bool given_up;         /* no other connection */
    bool fd_taken;         /* the descriptor that was given is used up */
    char *why;             /* what libnbd, or the server, said last */

    int64_t patience_end_ns; /* until then requests wait for the server */
    int64_t next_attempt_ns; /* not to try before, once patience has ended */

    struct nbd_extents known; /* of the last answer, for who asks on */
    int64_t known_next;       /* the offset that it is kept for */
    uint64_t changes;         /* begun and ended changes of the export */
};

/* Not connected yet; takes a copy of the options. */
struct nbd_client *nbd_client_new(const struct blockdev_options *options);
/* Connects, and fills in info. Suspends for as long as the server takes, or for
 * open-timeout. */
bool co_nbd_client_open(struct nbd_client *c, GError **error);
/* Nobody waits for a connection any more, now or later: there is none. One that
 * is there goes on. */
void nbd_client_give_up(struct nbd_client *c);
/* Nothing is in flight. Does not suspend. */
void nbd_client_close(struct nbd_client *c);
/* One command, which the export's limits allow; 0 or -errno. When the
 * connection is lost it fails, or waits for reconnect-delay and is done anew.
 * Suspends. */
int co_nbd_client_do(struct nbd_client *c, const struct nbd_command *command);
/* From now on nothing is watched unless a request is in flight, so that the
 * client may go to another loop; and back. */
void nbd_client_quiesce(struct nbd_client *c, bool quiet);
/* What the server says of a run at offset, in flags of the metadata context;
 * 0 < *run <= bytes. 0 or -errno. Suspends. */
int co_nbd_client_status(struct nbd_client *c, int64_t offset, int64_t bytes,
                         uint32_t *flags, int64_t *run);

/* ---- between the files of the client ---- */

/* Watches what libnbd waits for now; to be called after every call of it. */
void nbd_client_watch(struct nbd_client *c);
/* The connection ends; what is in flight fails, or is done anew. */
void nbd_client_lose(struct nbd_client *c);
/* For whoever connects: until the socket had an event; false if it is too late
 * for that. */
bool co_nbd_client_wait(struct nbd_client *c);
/* Takes what libnbd says about its last call. */
void nbd_client_note_error(struct nbd_client *c);
/* The connection, if there is one, is closed; nothing is in flight. */
void nbd_client_drop(struct nbd_client *c);
/* A time on the current loop's clock, or 0 for 0 seconds. */
int64_t nbd_client_deadline(uint32_t seconds);
bool nbd_client_is_late(const struct nbd_client *c);
/* The metadata context that is asked for block status. */
const char *nbd_client_context(const struct nbd_client *c);
/* What the server of the connection says of the export, checked. */
bool nbd_client_take_info(struct nbd_client *c, struct nbd_export_info *info,
                          GError **error);
/* False if requests that fitted what it was do not fit what it is. */
bool nbd_export_is_same(const struct nbd_export_info *was,
                        const struct nbd_export_info *is, GError **error);
/* The connected socket, or -1 and *error; within deadline_ns. */
int co_nbd_client_socket(struct nbd_client *c, GError **error);
/* For a request: true once there is a connection again. */
bool co_nbd_client_reconnect(struct nbd_client *c);

#endif
