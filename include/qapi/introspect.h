/*
 * The answer to query-qmp-schema, from the table that qapi/gen makes.
 */
#ifndef VARVE_QAPI_INTROSPECT_H
#define VARVE_QAPI_INTROSPECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_object;

struct qapi_schema_entry {
    const char *json;     /* one SchemaInfo */
    const char *command;  /* its name, if it is a command */
    const char *event;    /* its name, if it is an event */
    const uint16_t *refs; /* entries that it names */
    size_t n_refs;
};

extern const struct qapi_schema_entry qapi_schema[];
extern const size_t qapi_schema_count;

/* The array of SchemaInfo: the commands that available() admits, all events,
 * and the types that these reach. The caller owns it. Any loop. */
struct json_object *qapi_introspect(bool (*available)(const char *command,
                                                      void *opaque),
                                    void *opaque);

#endif
