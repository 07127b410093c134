/*
 * The in-process guest: a virtio-blk driver with memory of its own, for single
 * requests and for a workload that knows what it wrote.
 *
 * It uses the real rings and sees the disk as any guest does: by status bytes,
 * data and interrupts. It runs on its device's loop unless it is given another,
 * because there it costs no switch between threads and takes part in simulated
 * time; on a loop of its own it meets the device as a real guest would, at any
 * moment, and rings through eventfds. Everything below is called on the guest's
 * loop.
 */
#ifndef VARVE_HW_GUEST_H
#define VARVE_HW_GUEST_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qapi/types.h"

struct guest;
struct iov;
struct loop;
struct virtio_blk;

/* Probes dev as its driver: features, queues, DRIVER_OK. loop is dev's or one
 * that runs on another thread. NULL and *error if dev has a driver already, or
 * memory is short. Called on dev's loop. Suspends. */
struct guest *co_guest_new(struct virtio_blk *dev, struct loop *loop,
                           GError **error);
/* Resets the device and frees the guest. Called on dev's loop. Suspends. */
void co_guest_free(struct guest *g);
/* Resets the device and starts it anew, as a driver does after NEEDS_RESET; a
 * workload ends. Called on dev's loop. Suspends. */
bool co_guest_reset(struct guest *g, GError **error);
/* Resets one queue and starts it anew (RING_RESET): what the device had taken
 * off it ends, what it had not is put on the new ring. false if the machine
 * stops meanwhile. Called on dev's loop. Suspends. */
bool co_guest_reset_queue(struct guest *g, unsigned index, GError **error);
struct loop *guest_loop(const struct guest *g);
/* The driver has seen NEEDS_RESET. */
bool guest_broken(const struct guest *g);
int64_t guest_disk_bytes(const struct guest *g);
/* Completed writes may have to be flushed. */
bool guest_has_write_cache(const struct guest *g);

/* ---- single requests ---- */

struct guest_request {
    enum guest_op op;
    int64_t offset, bytes; /* bytes of the disk; sectors for the device */
    bool unmap;            /* WRITE_ZEROES */
    uint8_t pattern;       /* WRITE: each byte; READ with verify: expected */
    bool verify;
    void *buffer; /* READ, GET_ID: receives the data; WRITE: the data, in place
                   * of the pattern. May be NULL */
    const struct iov *iov; /* the same for scattered memory, READ and WRITE */
};

struct guest_result {
    enum guest_status status;
    int64_t mismatch; /* offset of the first wrong byte; -1: none */
    char id[21];      /* GET_ID */
};

/* Issues a request, in pieces if it is longer than one transfer, and waits for
 * it, or until the virtual machine stops. Suspends. */
void co_guest_request(struct guest *g, const struct guest_request *request,
                      struct guest_result *result);

/* Puts what a hostile driver might do on a queue, and rings; the device must
 * answer with NEEDS_RESET. */
bool guest_inject(struct guest *g, enum guest_malformation what,
                  GError **error);

/* ---- workload ---- */

struct guest_workload_options {
    uint64_t seed;
    int64_t offset, bytes; /* region of the disk; bytes 0: to its end */
    int64_t block_bytes;   /* of each request; multiple of the block size */
    unsigned depth;        /* requests in flight */
    unsigned segments;     /* data buffers a request; 0 and 1: one */
    unsigned read_percent; /* of the requests; the rest are writes ... */
    unsigned discard_percent, zeroes_percent; /* ... but for these, */
    unsigned flush_every; /* and a flush after so many others; 0: none */
    uint64_t rate;        /* requests a second; 0: no limit */
    uint64_t max_ops;     /* 0: until stopped */
    bool sequential;
    bool verify; /* write patterns, remember them, and check every read */
};

struct guest_workload_stats {
    bool active;
    unsigned in_flight;
    uint64_t reads, writes, flushes, discards, zeroes; /* completed */
    uint64_t read_bytes, written_bytes;
    uint64_t errors;        /* completed with a status other than OK */
    uint64_t mismatches;    /* reads that did not return what was written */
    int64_t first_mismatch; /* byte offset; -1: none */
    uint64_t unverified;    /* blocks read before the workload wrote them */
    uint64_t kicks, interrupts;
    int64_t elapsed_ns;
    int64_t latency_avg_ns, latency_p50_ns, latency_p99_ns, latency_max_ns;
};

/* Starts it; the guest's memory of what it wrote is kept from an earlier
 * verifying workload over the same region with the same block size. false and
 * *error for bad options, or if one runs. */
bool guest_workload_start(struct guest *g,
                          const struct guest_workload_options *options,
                          GError **error);
/* Issues nothing more, and waits for what is in flight, or until the virtual
 * machine stops. Suspends. */
void co_guest_workload_stop(struct guest *g);
/* Waits until a workload with max_ops has ended. Suspends. */
void co_guest_workload_wait(struct guest *g);
void guest_workload_query(const struct guest *g,
                          struct guest_workload_stats *stats);

#endif
