/*
 * Compression of single clusters. Plain memory, no I/O: for worker threads.
 */
#ifndef VARVE_BLOCK_QCOW2_CODEC_H
#define VARVE_BLOCK_QCOW2_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "qapi/types.h"

/* What compressing needs beside the data; serves one cluster at a time. */
struct cluster_packer;

/* NULL if memory is short. */
struct cluster_packer *cluster_packer_new(enum qcow2_compression_type type,
                                          enum qcow2_compress_effort effort);
void cluster_packer_free(struct cluster_packer *p);
/* Returns the length of what is in out, 0 if out_bytes do not hold it, or
 * -EIO. */
int cluster_pack(struct cluster_packer *p, const uint8_t *in, size_t bytes,
                 uint8_t *out, size_t out_bytes);
/* Fills out. 0, -ENOMEM, or -EIO if the data are damaged or too short. What
 * follows them is ignored. */
int cluster_unpack(enum qcow2_compression_type type, const uint8_t *in,
                   size_t bytes, uint8_t *out, size_t out_bytes);

#endif
