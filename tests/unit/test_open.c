/* Opening nodes: options, names, children, probing, backing chains. */
#include "block/node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <glib.h>

#include "aio/loop.h"
#include "block/backend.h"
#include "block/graph.h"
#include "block/request.h"
#include "qapi/options.h"

static void in_coroutine(void (*fn)(void *opaque))
{
    struct loop *loop = loop_new("test", LOOP_CLOCK_SIMULATED);
    loop_run_co(loop, fn, NULL);
    loop_free(loop);
}

static struct node *co_open(const char *text)
{
    GError *error = NULL;
    qapi_auto(blockdev_options) o = qapi_blockdev_options_parse(text, &error);
    if (error) {
        fail_msg("%s", error->message);
    }
    struct node *node = co_node_open(o, &error);
    if (error) {
        fail_msg("%s", error->message);
    }
    assert_non_null(node);
    return node;
}

static void co_raw_on_null(void *opaque)
{
    struct node *node =
        co_open("driver=raw,node-name=r,file.driver=null-co,file.size=1048576");
    assert_int_equal(node->length, 1 << 20);
    assert_ptr_equal(node_find("r", NULL), node);
    char buf[512];
    struct backend *b =
        co_backend_new("drive0", node, PERM_CONSISTENT_READ, PERM_ALL, NULL);
    struct iovec v;
    struct iov iov = iov_buf(&v, buf, sizeof(buf));
    assert_int_equal(co_backend_preadv(b, 0, &iov, 0), 0);
    co_node_unref(node);
    co_backend_unref(b);
}

static void raw_on_null_opens_reads_and_closes(void **state)
{
    in_coroutine(co_raw_on_null);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(raw_on_null_opens_reads_and_closes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
