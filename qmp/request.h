/*
 * One request of a client: checked, executed, answered.
 */
#ifndef VARVE_QMP_REQUEST_H
#define VARVE_QMP_REQUEST_H

#include <glib.h>
#include <stdbool.h>
#include <sys/queue.h>

struct json_object;

/* What the state of a session allows. */
enum request_rules {
    REQUEST_NEGOTIATING, /* only qmp_capabilities */
    REQUEST_IN_BAND,
    REQUEST_OOB, /* also exec-oob */
};

struct request {
    GError *error; /* of parsing or checking: the answer */
    struct json_object *json, *arguments, *id;
    const char *command; /* NULL with an error; points into json */
    bool oob;
    TAILQ_ENTRY(request) link;
};
TAILQ_HEAD(request_list, request);

/* Takes over json or error, of which one is NULL. Any loop; does not suspend.
 */
struct request *request_new(struct json_object *json, GError *error,
                            enum request_rules rules);
void request_free(struct request *r);
/* Executes it and returns the answer. Suspends as the command's handler does;
 * main loop. */
struct json_object *co_request_execute(struct request *r,
                                       enum request_rules rules);

#endif
