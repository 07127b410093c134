/*
 * Commands about the session and the program: control.json.
 */
#include <json-c/json.h>

#include "hw/runstate.h"
#include "qapi/introspect.h"
#include "qmp/commands.h"
#include "qmp/dispatch.h"
#include "qmp/visit.h"
#include "session.h"

/* What clients look at to know which protocol and schema this is. */
#define COMPATIBLE_MAJOR 7
#define COMPATIBLE_MINOR 2
#define COMPATIBLE_MICRO 0
#define PACKAGE          "varve 0.1"

bool qmp_qmp_capabilities(const struct qmp_capabilities_args *args,
                          GError **errp)
{
    struct monitor *m = monitor_current();

    if (m) {
        /* The only capability there is. */
        monitor_set_negotiated(m, args->enable.n > 0);
    }
    return true;
}

struct version_info *qmp_version_new(void)
{
    struct version_info *info = g_new0(struct version_info, 1);

    info->qemu = g_new0(struct version_triple, 1);
    info->qemu->major = COMPATIBLE_MAJOR;
    info->qemu->minor = COMPATIBLE_MINOR;
    info->qemu->micro = COMPATIBLE_MICRO;
    info->package = g_strdup(PACKAGE);
    return info;
}

struct version_info *qmp_query_version(GError **errp)
{
    return qmp_version_new();
}

struct command_info_list *qmp_query_commands(GError **errp)
{
    struct command_info_list *list = g_new0(struct command_info_list, 1);

    for (size_t i = 0; i < qmp_commands_count; i++) {
        if (qmp_commands[i].handler) {
            struct command_info *info = g_new0(struct command_info, 1);
            info->name = g_strdup(qmp_commands[i].name);
            qapi_list_append(list, info);
        }
    }
    return list;
}

struct json_object *qmp_query_qmp_schema(struct json_object *args,
                                         GError **errp)
{
    if (!qapi_decode_nothing(args, errp)) {
        return NULL;
    }
    return qapi_introspect(qmp_command_available, NULL);
}

bool qmp_quit(GError **errp)
{
    struct shutdown_event data = {
        .guest = false,
        .reason = SHUTDOWN_CAUSE_HOST_QMP_QUIT,
    };

    monitor_event(QAPI_EVENT_SHUTDOWN, &data);
    monitors_quit();
    return true;
}

/* ---- the machine ---- */

static bool status_visit(const void *args, void *result, GError **error)
{
    struct status_info *info = result;

    info->running = vm_running();
    info->status = vm_state();
    return true;
}

struct status_info *qmp_query_status(GError **errp)
{
    struct status_info *info = g_new0(struct status_info, 1);

    co_visit(NULL, status_visit, NULL, info, errp);
    return info;
}

static bool stop_visit(const void *args, void *result, GError **error)
{
    co_vm_stop(RUN_STATE_PAUSED);
    return true;
}

bool qmp_stop(GError **errp)
{
    return co_visit(NULL, stop_visit, NULL, NULL, errp);
}

static bool cont_visit(const void *args, void *result, GError **error)
{
    co_vm_start();
    return true;
}

bool qmp_cont(GError **errp)
{
    return co_visit(NULL, cont_visit, NULL, NULL, errp);
}
