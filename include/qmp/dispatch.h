/*
 * The table of QMP commands, which qapi/gen makes (build/gen/qmp/commands.c).
 *
 * Each command of the schema has a row. Its handler qmp_<name>() is defined
 * somewhere in qmp/; a command whose handler is not there is in the table with
 * handler == NULL, and must look as if it did not exist: qmp_command_find() and
 * qmp_command_available() see to that.
 */
#ifndef VARVE_QMP_DISPATCH_H
#define VARVE_QMP_DISPATCH_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>

struct json_object;
struct qapi_type;

enum qmp_command_flags {
    QMP_COMMAND_OOB = 1 << 0,       /* may be executed out of band */
    QMP_COMMAND_PRECONFIG = 1 << 1, /* allowed before the machine is set up */
};

struct qmp_command {
    const char *name;
    const struct qapi_type *args; /* NULL: takes none */
    const struct qapi_type *ret;  /* NULL: answers {} */
    unsigned flags;
    const char *const *features; /* NULL, or ended by NULL */
    void (*handler)(void);       /* NULL: not available */
    /* Decodes in (NULL = no arguments), calls the handler, encodes its answer;
     * *out = NULL stands for {}, otherwise the caller owns it. false: *error is
     * set, with the error class as its code. May suspend as the handler does:
     * call it in a coroutine on the main loop. */
    bool (*invoke)(struct json_object *in, struct json_object **out,
                   GError **error);
};

/* Sorted by name. */
extern const struct qmp_command qmp_commands[];
extern const size_t qmp_commands_count;

/* NULL if there is no such command, or no handler for it. */
const struct qmp_command *qmp_command_find(const char *name);
/* The same as a predicate for qapi_introspect(); opaque is not used. */
bool qmp_command_available(const char *name, void *opaque);
bool qmp_command_has_feature(const struct qmp_command *command,
                             const char *feature);

#endif
