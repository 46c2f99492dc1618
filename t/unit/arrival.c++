// When a request is here: every way to cut one in two, what a body needs, and whatever is no HTTP/1 at all.
#include "hybrid/arrival.hpp"
#include "tap.hpp"

#include "../fuzz/arrival.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

using namespace hybrid;
using namespace tap;
using namespace std::literals;

namespace {

constexpr std::size_t kMost = 32 * 1024;
using State = Arrival::State;

bool whole(std::string_view bytes)
{
    return look_at_request(bytes, kMost).state == State::Whole;
}

/// Not whole before its last byte, whole with it; and what is waited for is more than there is, and comes.
void test_cuts(const char *name, const std::string &bytes)
{
    bool early = false, greedy = false;
    for (std::size_t n = 0; n < bytes.size(); ++n) {
        const Arrival arrival = look_at_request(std::string_view(bytes).substr(0, n), kMost);
        early = early || arrival.state == State::Whole;
        greedy = greedy || arrival.wanted <= n || arrival.wanted > bytes.size();
    }
    ok(!early, "%s: not whole before its end", name);
    ok(!greedy, "%s: waits for more, but for no more than comes", name);
    ok(whole(bytes), "%s: whole at its end", name);
    ok(whole(bytes + "GET /next"), "%s: and with half of the next one behind it", name);
}

void test_heads()
{
    test_cuts("a head", "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    test_cuts("HTTP/1.0, no fields", "GET / HTTP/1.0\r\n\r\n");
    test_cuts("line feeds only", "GET / HTTP/1.1\nHost: x\n\n");
    test_cuts("blank lines before", "\r\n\r\n\nGET / HTTP/1.1\r\nHost: x\r\n\r\n");
    test_cuts("a folded field", "GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n");
    test_cuts("a method of one's own", "M-SEARCH * HTTP/1.1\r\nHost: x\r\n\r\n");
    test_cuts("a length of nothing", "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
    test_cuts("HTTP/0.9", "GET /\r\n");
    test_cuts("an upgrade",
              "GET / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n\r\n");
    test_cuts("behind PROXY", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n");
    test_cuts("behind PROXY 2", "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c............GET / HTTP/1.1\r\nHost: x\r\n\r\n"s);
}

void test_bodies()
{
    const std::string post = "POST / HTTP/1.1\r\nHost: x\r\n";
    test_cuts("a body", post + "Content-Length: 5\r\n\r\nabcde");
    test_cuts("any case", post + "cOnTeNt-LeNgTh:5\r\n\r\nabcde");
    test_cuts("chunks", post + "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\na;x=y\r\n0123456789\r\n0\r\n\r\n");
    test_cuts("trailers", post + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n");
    test_cuts("who expects to be told to go on", post + "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n");

    const std::string head = post + "Content-Length: 5\r\n\r\n";
    const Arrival arrival = look_at_request(head, kMost);
    ok(arrival.state == State::Body && arrival.wanted == head.size() + 5,
       "the head is here, and the body's length is known");
    const std::string large = post + "Content-Length: 1000000\r\n\r\n";
    is(look_at_request(large, kMost).wanted, kMost, "of a large body so much is awaited as fits");
    ok(whole(large + std::string(kMost, 'x')), "and that is enough");
    is(look_at_request(post + "Transfer-Encoding: chunked\r\n\r\nfffffff\r\n", kMost).wanted, kMost,
       "of a large chunk, too");
    ok(whole(post + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n"), "what is no chunk is httpd's business");
    ok(look_at_request(post + "Content-Length: 999999999999999999999\r\n\r\n", kMost).wanted == kMost,
       "an absurd length");
    ok(whole(post + "Content-Length: x\r\n\r\n"), "a length that is none");
}

void test_others()
{
    ok(whole("\x16\x03\x01\x02\0\x01"sv), "TLS where none is expected");
    ok(whole("PRI * HTTP/2.0\r\n"), "HTTP/2's preface");
    ok(whole("hello\r\n") && whole("hello world\r\n") && whole("\0"sv) && whole("{\"a\":1}"), "anything else");
    ok(whole(" GET / HTTP/1.1\r\n"), "a blank in front");
    ok(look_at_request("", kMost).wanted == 1, "nothing: wait for anything");
    ok(whole(std::string(kMost, 'A')), "too long a word");
    ok(!whole(std::string(kMost - 1, 'A')), "as long as it is not");
    ok(whole("GET / HTTP/1.1\r\nX: " + std::string(kMost, 'x')), "too long a head");
}

void test_records()
{
    const auto look = [](std::string_view bytes) { return look_at_record(bytes, kMost); };
    ok(look("").state == State::Partial && look("").wanted == 1, "nothing: wait for anything");
    ok(look("\x16").state == State::Partial && look("\x16").wanted == 5, "a record begins with five bytes");
    const std::string hello = "\x16\x03\x01\x01\x02"s + std::string(0x102, 'h');
    is(look(hello.substr(0, 5)).wanted, hello.size(), "which tell its length");
    ok(look(hello.substr(0, hello.size() - 1)).state == State::Partial && look(hello).state == State::Whole,
       "it is whole at its end");
    ok(look("GET /").state == State::Whole, "plain HTTP: mod_ssl answers that");
    ok(look("\x15\x03").state == State::Whole, "an alert");
    is(look("\x16\x03\x01\xff\xff"sv).wanted, kMost, "an absurd length");
}

// What libFuzzer has found worth keeping (make fuzz), and each of these cut everywhere.
void test_corpus(const std::filesystem::path &root)
{
    int files = 0;
    const char *wrong = nullptr;
    std::error_code error;
    for (const auto &entry : std::filesystem::directory_iterator(root / "t/fuzz/corpus-arrival", error)) {
        std::ifstream file(entry.path(), std::ios::binary);
        const std::string bytes(std::istreambuf_iterator<char>(file), {});
        ++files;
        for (std::size_t part = 0; part <= bytes.size() && !wrong; ++part)
            for (const std::size_t most : {bytes.size() / 2 + 1, kMost})
                wrong = wrong ? wrong : fuzz::check_arrival(bytes, part, most);
    }
    ok(!wrong && files > 10, "the corpus of %d: %s", files, wrong ? wrong : "all is well");
}

} // namespace

int main(int argc, char **argv)
{
    const char *root = std::getenv("HYBRID_ROOT");
    test_corpus(argc > 1 ? argv[1] : root ? root : ".");
    test_heads();
    test_bodies();
    test_others();
    test_records();
    return done();
}
