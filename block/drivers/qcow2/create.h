/*
 * Making a qcow2 image: what may be asked for.
 */
#ifndef VARVE_BLOCK_DRIVERS_QCOW2_CREATE_H
#define VARVE_BLOCK_DRIVERS_QCOW2_CREATE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "qapi/types.h"

struct node;

struct image_spec {
    uint64_t size; /* bytes of the disk */
    unsigned version;
    uint64_t cluster_size;
    uint64_t refcount_bits;
    bool lazy_refcounts, extended_l2;
    const char *backing_file, *backing_format; /* or NULL */
    enum qcow2_compression_type compression;
    enum prealloc_mode preallocation;
    struct node *data_file; /* or NULL: the guest's data are in the image */
    const char *data_file_name;
    bool data_file_raw;
    const char *nocow, *extent_size_hint; /* of the files, as typed; or NULL */
};

/* Defaults of everything that nobody asked for. */
#define IMAGE_SPEC_INIT                                          \
    {                                                            \
        .version = 3, .cluster_size = 65536, .refcount_bits = 16 \
    }

/* Takes over what "cluster_size=64k,..." says; NULL says nothing. The texts of
 * spec are those of *list, which the caller frees. */
bool qcow2_parse_create_options(const char *text, struct image_spec *spec,
                                GPtrArray **list, GError **error);
/* Refuses what cannot be made. */
bool qcow2_check_spec(const struct image_spec *spec, GError **error);
/* Clusters of an image as spec asks for it, and how many of them hold guest
 * data. false if the format cannot hold it. */
bool qcow2_count_clusters(const struct image_spec *spec, uint64_t *all,
                          uint64_t *data, GError **error);
/* Checks spec and writes the image into file, whose content is lost, and sets
 * the length of the data file. Suspends. */
bool co_qcow2_format(struct node *file, const struct image_spec *spec,
                     GError **error);

#endif
