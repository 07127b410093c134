/*
 * The dispatcher: from a JSON object to an answer by the table of commands.
 */
#include "request.h"

#include <json-c/json.h>
#include <string.h>

#include "qmp/dispatch.h"
#include "util/error.h"

static bool take_name(struct request *r, const char *key,
                      struct json_object *value, GError **error)
{
    if (!json_object_is_type(value, json_type_string)) {
        return error_set(error, "QMP input member '%s' must be a string", key);
    }
    if (r->command) {
        return error_set(error, "QMP input member 'execute' clashes with "
                                "'exec-oob'");
    }
    r->command = json_object_get_string(value);
    r->oob = !strcmp(key, "exec-oob");
    return true;
}

static bool request_check(struct request *r, enum request_rules rules,
                          GError **error)
{
    if (!json_object_is_type(r->json, json_type_object)) {
        return error_set(error, "QMP input must be a JSON object");
    }
    /* The answer to a request that is refused has its id, too. */
    json_object_object_get_ex(r->json, "id", &r->id);
    json_object_object_foreach(r->json, key, value)
    {
        if (!strcmp(key, "execute") ||
            (!strcmp(key, "exec-oob") && rules == REQUEST_OOB)) {
            if (!take_name(r, key, value, error)) {
                return false;
            }
        } else if (!strcmp(key, "arguments")) {
            if (!json_object_is_type(value, json_type_object)) {
                return error_set(error, "QMP input member 'arguments' must be "
                                        "an object");
            }
            r->arguments = value;
        } else if (strcmp(key, "id") != 0) {
            return error_set(error, "QMP input member '%s' is unexpected", key);
        }
    }
    if (!r->command) {
        return error_set(error, "QMP input lacks member 'execute'");
    }
    return true;
}

struct request *request_new(struct json_object *json, GError *error,
                            enum request_rules rules)
{
    struct request *r = g_new0(struct request, 1);

    r->json = json;
    r->error = error;
    if (!error && !request_check(r, rules, &r->error)) {
        r->command = NULL;
        r->oob = false;
    }
    return r;
}

void request_free(struct request *r)
{
    json_object_put(r->json);
    g_clear_error(&r->error);
    g_free(r);
}

static bool invoke(struct request *r, enum request_rules rules,
                   struct json_object **out, GError **error)
{
    bool negotiates = !strcmp(r->command, "qmp_capabilities");

    if (rules == REQUEST_NEGOTIATING && !negotiates) {
        return error_set_class(error, ERROR_COMMAND_NOT_FOUND,
                               "Expecting capabilities negotiation with "
                               "'qmp_capabilities'");
    }
    const struct qmp_command *command = qmp_command_find(r->command);
    if (!command) {
        return error_set_class(error, ERROR_COMMAND_NOT_FOUND,
                               "The command %s has not been found", r->command);
    }
    if (r->oob && !(command->flags & QMP_COMMAND_OOB)) {
        return error_set(error, "The command %s does not support OOB",
                         r->command);
    }
    if (rules != REQUEST_NEGOTIATING && negotiates) {
        return error_set_class(error, ERROR_COMMAND_NOT_FOUND,
                               "Capabilities negotiation is already complete, "
                               "command ignored");
    }
    return command->invoke(r->arguments, out, error);
}

static struct json_object *error_object(const GError *error)
{
    struct json_object *json = json_object_new_object();
    int length = (int)error_desc_length(error);

    json_object_object_add(json, "class",
                           json_object_new_string(error_class_str(error)));
    json_object_object_add(json, "desc",
                           json_object_new_string_len(error->message, length));
    return json;
}

struct json_object *co_request_execute(struct request *r,
                                       enum request_rules rules)
{
    struct json_object *answer = json_object_new_object();
    struct json_object *result = NULL;

    if (!r->error) {
        invoke(r, rules, &result, &r->error);
    }
    if (r->error) {
        json_object_object_add(answer, "error", error_object(r->error));
    } else {
        json_object_object_add(answer, "return",
                               result ? result : json_object_new_object());
    }
    /* Present with the value null is not absent. */
    if (r->json && json_object_is_type(r->json, json_type_object) &&
        json_object_object_get_ex(r->json, "id", NULL)) {
        json_object_object_add(answer, "id", json_object_get(r->id));
    }
    return answer;
}
