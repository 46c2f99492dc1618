// SPDX-License-Identifier: Apache-2.0
// What a client has said inside TLS: read ahead without waiting, so that no worker is held by a handshake or a request
// that comes in small records (doc/notes/2026-11-21-slow-clients.md).
#pragma once

#include "hybrid/httpd.hpp"

#include <memory>
#include <string_view>

namespace hybrid {

class Session;

/// An input filter just above mod_ssl's, and what it has read ahead. The connection's: in its pool. The worker's that
/// has it.
class TlsInput {
  public:
    /// Registers the filter; for register_hooks, on the main thread, whenever the module is loaded.
    static ap_filter_rec_t *register_filter();
    /// Adds it to a connection whose bytes mod_ssl decrypts; nullptr: it doesn't. After ap_pre_connection().
    static TlsInput *add(Session &session, ap_filter_rec_t *filter);

    /// Goes on with the handshake, as far as that goes. False: the client has to say more first.
    bool shake_hands();
    bool handshaken() const { return handshaken_; }
    /// HTTP/1 is spoken, and not something that reads for itself.
    bool http1() const;

    /// Reads what is there, until `most` bytes are held. False: it has ended, or failed, and httpd should see that.
    bool read_ahead(std::size_t most);
    std::string_view held() const { return {bytes_.get() + begin_, end_ - begin_}; }

    /// Filter body.
    apr_status_t give(apr_bucket_brigade *bb, ap_input_mode_t mode, apr_read_type_e block, apr_off_t most);
    /// A turn is over: nobody looks any more at what give() has given.
    void free_given();
    /// Out of the way: the protocol reads for itself.
    void remove();

  private:
    TlsInput(Session &session, ap_filter_t &filter, apr_bucket_brigade &brigade)
        : session_(session), filter_(&filter), brigade_(&brigade)
    {
    }
    void append(std::string_view bytes);
    bool append_all(apr_bucket_brigade *bb);
    apr_status_t give_line(apr_bucket_brigade *bb, apr_read_type_e block);
    void give_some(apr_bucket_brigade *bb, std::size_t length, bool keep);

    Session &session_;
    ap_filter_t *filter_;
    apr_bucket_brigade *brigade_; // empty between the calls
    bool handshaken_ = false;
    bool ended_ = false;                 // it has been read to its end
    apr_status_t outcome_ = APR_SUCCESS; // of the handshake
    struct Free {
        void operator()(char *bytes) const { free(bytes); }
    };
    std::unique_ptr<char[], Free> bytes_;
    std::unique_ptr<char[], Free> given_; // the last bytes of it, which a reader may still look at
    std::size_t room_ = 0;
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
};

} // namespace hybrid
